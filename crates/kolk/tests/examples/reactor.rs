//! The examples of the server's core: pushing, limits, time-outs, slow work, detaching.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{PATIENCE, Serving, exchange};

fn line_of(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    line
}

#[test]
fn push_sends_the_same_bytes_to_everybody() {
    let push = Serving::start("push", &["127.0.0.1:0"]);
    let mut gone = push.connect();
    let here: Vec<_> = (0..3).map(|_| push.connect()).collect();
    gone.read_exact(&mut [0; 1]).expect("a first message");
    drop(gone); // with unread bytes: the server sees a reset
    (&here[0]).write_all(b"nobody asked").expect("sent");
    for mut stream in here {
        let mut messages = [0; 2 * 1024];
        stream.read_exact(&mut messages).expect("two messages");
        let text = std::str::from_utf8(&messages).expect("text");
        let first: u64 =
            text.lines().next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect(text);
        let expected: String =
            [first, first + 1].map(|beat| format!("{:>1023}\n", format!("beat {beat}"))).concat();
        assert_eq!(text, expected);
    }
}

#[test]
fn max_connections_serves_two_and_refuses_the_third() {
    let mut echo = Serving::start("max_connections", &["127.0.0.1:0"]);
    let talk = |mut stream: &TcpStream| {
        stream.write_all(b"hello").expect("sent");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map(|()| assert_eq!(&answer, b"hello"))
    };
    let (first, second) = (echo.connect(), echo.connect());
    talk(&first).expect("served");
    talk(&second).expect("served");
    assert!(talk(&echo.connect()).is_err(), "refused");
    drop(first);
    // Its place is free once the server has seen the end.
    let begin = Instant::now();
    while talk(&echo.connect()).is_err() {
        assert!(begin.elapsed() < PATIENCE, "the place does not become free");
    }
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.ends_with(" refused\n")) {
        seen.push(line_of(&mut echo.stdout));
    }
    assert!(seen.iter().any(|line| line.ends_with(" is here, 2 are open\n")), "{seen:?}");
}

#[test]
fn idle_timeout_closes_who_says_nothing_and_who_never_ends() {
    const IDLE: Duration = Duration::from_millis(400);
    let mut echo = Serving::start("idle_timeout", &["127.0.0.1:0", "400"]);
    let mut silent = echo.connect();
    let begin = Instant::now();
    assert_eq!(silent.read(&mut [0; 1]).expect("an end in order"), 0);
    let took = begin.elapsed();
    assert!(took >= IDLE * 9 / 10 && took < IDLE * 5, "{took:?}");
    drop(silent);
    assert!(line_of(&mut echo.stdout).ends_with(": idle for too long\n"));
    // Never idle, and never at the end of its line.
    let mut endless = echo.connect();
    let begin = Instant::now();
    while endless.write_all(b"x").is_ok() && endless.read(&mut [0; 8]).is_ok_and(|count| count > 0) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(IDLE / 10);
    }
    assert!(line_of(&mut echo.stdout).ends_with(": nothing arrived in time\n"));
}

#[test]
fn offload_answers_in_order_and_says_when_it_is_busy() {
    let primes = Serving::start("offload", &["127.0.0.1:0"]);
    let stream = primes.connect();
    let answers = exchange(&stream, b"one\n");
    assert_eq!(answers, b"say a number\n");
    let mut stream = primes.connect();
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    stream.write_all(b"30000\n100\n10\n").expect("sent");
    for expected in [
        "answer 1: 3245 primes below 30000\n",
        "answer 2: 25 primes below 100\n",
        "answer 3: 4 primes below 10\n",
    ] {
        assert_eq!(line_of(&mut lines), expected);
    }
    stream.write_all("100000\n".repeat(30).as_bytes()).expect("sent");
    let mut answers: Vec<String> = (0..30).map(|_| line_of(&mut lines)).collect();
    let busy = answers.iter().filter(|answer| *answer == "busy\n").count();
    // Two threads, and room for eight.
    assert!((1..=22).contains(&busy), "{answers:?}");
    answers.retain(|answer| answer != "busy\n");
    for (number, answer) in (4..).zip(answers) {
        assert_eq!(answer, format!("answer {number}: 9592 primes below 100000\n"));
    }
}

#[test]
fn detach_hands_the_socket_to_a_thread_and_goes_on() {
    let mut echo = Serving::start("detach", &["127.0.0.1:0"]);
    let other = echo.connect();
    let mut stream = echo.connect();
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    stream.write_all(b"hello\ntake over\nunread\n").expect("sent");
    assert_eq!([(); 3].map(|()| line_of(&mut lines)), ["hello\n", "a thread has you\n", "UNREAD\n"]);
    stream.write_all(b"and more\n").expect("sent");
    assert_eq!(line_of(&mut lines), "AND MORE\n");
    assert_eq!(exchange(&other, b"still an echo\n"), b"still an echo\n");
    drop((stream, lines));
    assert!(line_of(&mut echo.stdout).ends_with(": the thread is done\n"));
}
