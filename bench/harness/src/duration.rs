//! Times as the command lines write them: whole seconds or milliseconds.

use std::time::Duration;

/// Longest time that is accepted: an hour.
const LONGEST_MS: u64 = 3_600_000;

/// Reads `3s` or `500ms`.
///
/// # Errors
///
/// Says what is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let (number, milliseconds) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => return Err("expected a duration such as 3s or 500ms".to_owned()),
    };
    match number.parse::<u32>() {
        Ok(number) if (1..=LONGEST_MS).contains(&(u64::from(number) * milliseconds)) => {
            Ok(Duration::from_millis(u64::from(number) * milliseconds))
        }
        _ => Err("expected a whole number of s or ms, at most an hour".to_owned()),
    }
}

/// The same duration as an argument: whole seconds as such.
pub fn written(duration: Duration) -> String {
    match duration.as_millis() {
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_and_written_in_seconds_or_milliseconds() {
        for text in ["3s", "500ms", "1500ms"] {
            assert_eq!(written(parse(text).unwrap()), text);
        }
        for wrong in ["", "3", "s", "-1s", "0s", "0ms", "1.5s", "3601s", "3 s"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
