//! Lengths of time as Go writes them: `300ms`, `1m30s`, `1.5h`.

use std::time::Duration;

/// Reads one. Negative ones are none that anything can wait for.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let fix = match text.parse::<u64>() {
            Ok(number) => format!("write \"{number}s\""),
            Err(_) => "write one such as \"300ms\", \"60s\" or \"1h30m\"".to_owned(),
        };
        format!("\"{text}\" is not a length of time: {fix}")
    };
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300),
            ("60s", 60_000),
            ("+1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("24h", 86_400_000),
            ("1h0m0.25s", 3_600_250),
            ("2500us", 3),
        ] {
            let read = parse(text).unwrap();
            assert_eq!((read + Duration::from_micros(500)).as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn what_is_none_says_what_would_be() {
        for (text, part) in [
            ("60", "write \"60s\""),
            ("", "such as"),
            ("s", "such as"),
            ("1d", "such as"),
            ("-5s", "such as"),
            ("1..5s", "such as"),
            ("5 s", "such as"),
            ("99999999999999999999h", "such as"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
