//! Enough of Redis for its benchmark: PING, GET, SET and DEL. Try it with
//! `redis-benchmark -p 6380 -t ping,set,get -P 16`, or `redis-cli -p 6380`.
//!
//! However many commands have arrived, their answers are written straight into the connection's out-queue and leave
//! in one send: this is what makes pipelining cheap. One loop, so that one table needs no lock.

use std::collections::HashMap;
use std::io::Write;

use bytes::{BufMut, Bytes};
use kolk::server::{Action, Conn, Fill, Handler, Input, Server};

/// Longest line, and longest key or value, in bytes.
const LINE_MAX: usize = 4 * 1024;
const BULK_MAX: usize = 512 * 1024;
/// Most words of any command, and of those that are known.
const WORDS_MAX: usize = 1024;
const KNOWN_WORDS_MAX: usize = 3;

#[derive(Default)]
struct Redis {
    values: HashMap<Box<[u8]>, Bytes>,
}

impl Handler for Redis {
    type Session = ();

    fn on_open(&mut self, _conn: &mut Conn<'_>) {}

    fn on_data(&mut self, _session: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        let arrived = input.contiguous();
        let mut done = 0;
        let mut action = Action::Continue;
        let mut needed = 0;
        conn.write_with(arrived.len(), |answers| {
            while done < arrived.len() {
                match Command::parse(&arrived[done..]) {
                    Ok(Parsed::Command(command, len)) => {
                        done += len;
                        self.run(&command, answers);
                    }
                    Ok(Parsed::NeedMore(len)) => {
                        needed = len;
                        return;
                    }
                    Err(error) => {
                        fail(answers, &format!("Protocol error: {error}"));
                        action = Action::Close;
                        return;
                    }
                }
            }
        });
        input.skip(done);
        if needed > 0 {
            input.need(needed); // a long value comes in many pieces: not one call for each
        }
        action
    }
}

impl Redis {
    fn run(&mut self, command: &Command<'_>, answers: &mut Fill<'_>) {
        let is = |name: &str| command.name().eq_ignore_ascii_case(name.as_bytes());
        match command.arguments() {
            Some([]) if is("PING") => answers.put_slice(b"+PONG\r\n"),
            Some([text]) if is("PING") => bulk(answers, text),
            Some([key]) if is("GET") => match self.values.get(*key) {
                Some(value) => bulk(answers, value),
                None => answers.put_slice(b"$-1\r\n"),
            },
            Some([key, value]) if is("SET") => {
                let value = Bytes::copy_from_slice(value);
                match self.values.get_mut(*key) {
                    Some(place) => *place = value,
                    None => drop(self.values.insert((*key).into(), value)),
                }
                answers.put_slice(b"+OK\r\n");
            }
            Some([key]) if is("DEL") => {
                let count = u8::from(self.values.remove(*key).is_some());
                answers.put_slice(&[b':', b'0' + count, b'\r', b'\n']);
            }
            None if command.count == 0 => {} // an empty line is nothing
            _ => fail(answers, "unknown command, or wrong number of arguments"),
        }
    }
}

/// Some bytes with their length.
fn bulk(answers: &mut Fill<'_>, bytes: &[u8]) {
    // Room is made for what is written: it cannot fail.
    let _ = write!(answers, "${}\r\n", bytes.len());
    answers.put_slice(bytes);
    answers.put_slice(b"\r\n");
}

fn fail(answers: &mut Fill<'_>, text: &str) {
    let _ = write!(answers, "-ERR {text}\r\n");
}

/// A command as it lies in the input.
#[derive(Default)]
struct Command<'a> {
    words: [&'a [u8]; KNOWN_WORDS_MAX],
    /// More than `KNOWN_WORDS_MAX` if there were more.
    count: usize,
}

enum Parsed<'a> {
    /// And the bytes that it takes.
    Command(Command<'a>, usize),
    /// None is complete before there are so many bytes.
    NeedMore(usize),
}

impl<'a> Command<'a> {
    /// The first command of some bytes: an array of bulk strings, or words in a line.
    fn parse(bytes: &'a [u8]) -> Result<Parsed<'a>, &'static str> {
        let Some((line, mut end)) = line(bytes)? else { return Ok(Parsed::NeedMore(bytes.len() + 1)) };
        let mut command = Self::default();
        let Some(count) = line.strip_prefix(b"*") else {
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .for_each(|word| command.push(word));
            return Ok(Parsed::Command(command, end));
        };
        for _ in 0..number(count).filter(|&count| count <= WORDS_MAX).ok_or("invalid multibulk length")? {
            let Some((line, text)) = self::line(&bytes[end..])? else {
                return Ok(Parsed::NeedMore(bytes.len() + 1));
            };
            let len = line.strip_prefix(b"$").ok_or("expected '$'")?;
            let len = number(len).filter(|&len| len <= BULK_MAX).ok_or("invalid bulk length")?;
            let text = end + text;
            end = text + len + 2;
            match bytes.get(text..end) {
                Some(word) => command.push(&word[..len]),
                None => return Ok(Parsed::NeedMore(end)),
            }
        }
        Ok(Parsed::Command(command, end))
    }

    fn push(&mut self, word: &'a [u8]) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = word;
        }
        self.count += 1;
    }

    fn name(&self) -> &'a [u8] {
        self.words[0]
    }

    /// `None` if there are too many, or not even a name.
    fn arguments(&self) -> Option<&[&'a [u8]]> {
        self.words.get(1..self.count)
    }
}

/// The first line without its end, and where the next begins.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, &'static str> {
    match bytes.iter().take(LINE_MAX).position(|&byte| byte == b'\n') {
        Some(feed) => {
            let line = &bytes[..feed];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), feed + 1)))
        }
        None if bytes.len() < LINE_MAX => Ok(None),
        None => Err("too big inline request"),
    }
}

/// At most nine digits.
fn number(digits: &[u8]) -> Option<usize> {
    let is_number = (1..10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0')))
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:6380".into());
    let server = Server::builder().listen(address).event_loops(1).start(|_loop| Redis::default())?;
    println!("listening on {}", server.addresses()[0]);
    server.wait()
}
