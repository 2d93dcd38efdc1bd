//! The contract of [`kolk_engine::driver`], kept by every kernel interface.
//!
//! Each behaviour is written once, as a function of the [`World`](support::World) it has to hold in, and
//! becomes one test for each of them: `streams::data_then_fin::epoll_unix`. To see one driver's tests only,
//! filter by its name: `cargo test -p kolk-engine --test contract uring`.
//!
//! On a real kernel each test runs in a process of its own, which must have as many descriptors after it as
//! before.

/// Makes a test of each behaviour for each of its worlds.
macro_rules! contract {
    (@each $behaviour:ident, [$($world:ident),+], $variables:tt) => {
        mod $behaviour {
            $(
                #[test]
                fn $world() {
                    let test = concat!(module_path!(), "::", stringify!($world));
                    crate::support::run(test, &$variables, crate::support::World::$world(), super::$behaviour);
                }
            )+
        }
    };
    // Each driver, each kind of stream.
    (everywhere: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [uring_tcp, uring_unix, epoll_tcp, epoll_unix, sim], []);)+
    };
    // What knows no difference between the kinds of streams, or needs what only TCP has.
    (each_driver: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [uring_tcp, epoll_tcp, sim], []);)+
    };
    (real_kernels: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [uring_tcp, uring_unix, epoll_tcp, epoll_unix], []);)+
    };
    (real_drivers: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [uring_tcp, epoll_tcp], []);)+
    };
    (simulated: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [sim], []);)+
    };
    // What the kernel may still touch is then leaked on purpose: the address sanitizer is not to report it.
    (everywhere_with_leaks: $($behaviour:ident),+ $(,)?) => {
        $(contract!(
            @each $behaviour,
            [uring_tcp, uring_unix, epoll_tcp, epoll_unix, sim],
            [("ASAN_OPTIONS", "detect_leaks=0")]
        );)+
    };
    // A datagram that finds no room is lost on UDP, and waits on a Unix socket.
    (where_datagrams_wait: $($behaviour:ident),+ $(,)?) => {
        $(contract!(@each $behaviour, [uring_unix, epoll_unix], []);)+
    };
}

mod cancelling;
mod closing;
mod connections;
mod counted;
mod datagrams;
mod dropping;
mod leases;
mod output;
mod parking;
mod pressure;
mod refusals;
mod streams;
mod support;
mod turns;
mod watching;
