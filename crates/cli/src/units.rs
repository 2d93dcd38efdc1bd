//! Durations and sizes, read and written the way people do.

use std::time::Duration;

/// Reads `5s`, `500ms`, `2m`, `1h` or `1.5s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let seconds_per_unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => return Err(format!("{text:?} has no unit: write {text}s or {text}ms")),
        _ => {
            return Err(format!("{unit:?} is no unit of time: use us, ms, s, m or h"));
        }
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no duration: write 5s, 500ms or 2m"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= MAX_DURATION)
        .ok_or_else(|| format!("{text:?} is out of range: between 1us and 24h"))
}

const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `64`, `64B`, `4KiB`, `1MiB`; `kB` and `MB` are powers of ten.
pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor: usize = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{unit:?} is no unit of size: use B, KiB or MiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size: write 64, 4KiB or 1MiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    (text[..end].trim_end(), &text[end..])
}

/// `1234567` as `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes with a binary unit: `512 B`, `1.5 KiB`, `-2.0 MiB`.
pub(crate) fn bytes(count: f64) -> String {
    match count.abs() {
        size if size < 1024.0 => format!("{count:.0} B"),
        size if size < 1024.0 * 1024.0 => format!("{:.1} KiB", count / 1024.0),
        size if size < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", count / (1024.0 * 1024.0)),
        _ => format!("{:.2} GiB", count / (1024.0 * 1024.0 * 1024.0)),
    }
}

/// Microseconds with a fitting unit: `58.1 us`, `7.2 ms`, `1.30 s`.
pub(crate) fn micros(micros: f64) -> String {
    match micros {
        _ if micros < 1000.0 => format!("{micros:.1} us"),
        _ if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        let cases = [("5s", 5000), ("500ms", 500), ("2m", 120_000), ("1.5s", 1500), ("1h", 3_600_000)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn bad_durations_say_what_to_write() {
        assert!(parse_duration("5").unwrap_err().contains("write 5s"));
        assert!(parse_duration("5 days").unwrap_err().contains("use us, ms, s, m or h"));
        assert!(parse_duration("s").unwrap_err().contains("write 5s"));
        for out_of_range in ["0s", "-1s", "25h"] {
            assert!(parse_duration(out_of_range).unwrap_err().contains("out of range"), "{out_of_range}");
        }
        assert!(parse_duration("").is_err());
    }

    #[test]
    fn sizes_are_read_with_and_without_unit() {
        let cases =
            [("64", 64), ("64B", 64), ("4KiB", 4096), ("1MiB", 1 << 20), ("2kB", 2000), ("4 KiB", 4096)];
        for (text, size) in cases {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_to_write() {
        assert!(parse_size("many").unwrap_err().contains("unit of size"));
        assert!(parse_size("-1").unwrap_err().contains("write 64, 4KiB or 1MiB"));
        assert!(parse_size("4lb").unwrap_err().contains("use B, KiB or MiB"));
        assert!(parse_size("99999999999999999999GiB").is_err());
        assert!(parse_size("18446744073709551615GiB").unwrap_err().contains("too large"));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn bytes_and_times_get_a_fitting_unit() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(-2.0 * 1024.0 * 1024.0), "-2.0 MiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.00 GiB");
        assert_eq!(micros(58.14), "58.1 us");
        assert_eq!(micros(7210.0), "7.21 ms");
        assert_eq!(micros(1_300_000.0), "1.30 s");
    }
}
