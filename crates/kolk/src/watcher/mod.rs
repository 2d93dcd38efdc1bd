//! The proactor: submit operations, collect completions on the thread that you choose.

mod adopt;
mod buffer;
mod builder;
mod completion;
mod conn;
mod input;
mod limits;
mod output;
mod pending;
mod proactor;
mod relay;
mod request;
mod sockets;
mod stats;
mod submit;
mod submitter;
mod timers;
mod verbs;

pub use adopt::{Detached, IntoSocket};
pub use buffer::Buffer;
pub use builder::Builder;
pub use completion::{Completion, Completions, Operation, OperationId};
pub use proactor::Watcher;
pub use request::Request;
pub use stats::Stats;
pub use submitter::{ConnOwner, Submitter};
