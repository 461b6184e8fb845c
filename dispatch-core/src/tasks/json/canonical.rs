use super::{
    Malformed,
    scan::Scanner,
    string::{Wtf8, string},
};

/// The same bytes for values that Python calls equal: the order of an object's keys, the spelling of strings and numbers
/// (`1`, `1.0`, `10e-1`) and white space do not matter; booleans are no numbers here.
///
/// # Errors
/// As [`members`](super::members).
pub fn canonical(text: &str) -> Result<Vec<u8>, Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    let mut out = Vec::with_capacity(text.len());
    let from = scanner.at;
    scanner.value(0)?;
    let value = &text[from..scanner.at];
    scanner.end()?;
    write_canonical(value, &mut out);
    Ok(out)
}

/// Of a value that has been found whole.
fn write_canonical(value: &str, out: &mut Vec<u8>) {
    match value.as_bytes().first() {
        Some(b'{') => {
            let mut members: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let mut each = |key: &str, value: &str| {
                let mut text = Vec::new();
                write_canonical(value, &mut text);
                let key = string(key).unwrap_or_default().into_owned().into_bytes();
                // Of a key that stands twice the last one counts.
                members.retain(|(known, _)| *known != key);
                members.push((key, text));
            };
            // It has been read before: it is whole.
            let _whole = Scanner::new(value).object(0, &mut each);
            members.sort();
            out.push(b'{');
            for (key, value) in members {
                write_bytes(&key, out);
                out.extend(value);
            }
            out.push(b'}');
        }
        Some(b'[') => {
            out.push(b'[');
            let _whole = Scanner::new(value).array(0, &mut |item| {
                write_canonical(item, out);
                out.push(b',');
            });
            out.push(b']');
        }
        Some(b'"') => {
            let text: Result<Wtf8, _> = serde_json::from_str(value);
            write_bytes(&text.map(|text| text.0).unwrap_or_default(), out);
        }
        Some(b'-' | b'0'..=b'9') if !value.ends_with('y') => write_number(value, out),
        _ => out.extend(value.as_bytes()),
    }
}

/// With its length before it, so that no text can pass for two.
fn write_bytes(text: &[u8], out: &mut Vec<u8>) {
    out.extend(format!("\"{}:", text.len()).bytes());
    out.extend(text);
}

/// Sign, digits without zeros at either end, and a power of ten.
fn write_number(text: &str, out: &mut Vec<u8>) {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (number, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return out.push(b'0');
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    // A power that no number has changes nothing worth telling apart.
    let power = power.parse::<i128>().unwrap_or(i128::MAX / 2) + zeros as i128 - part.len() as i128;
    out.extend(format!("{sign}{significant}e{power}").bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_calls_equal_has_one_canonical_form() {
        let canonical = |text| canonical(text).unwrap();
        for (one, other) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0.10", "1E-1"),
            ("-0.0", "0"),
            (r#"{"a":1,"b":[2]}"#, r#"{ "b":[2.0], "a":1 }"#),
            (r#""é""#, r#""\u00e9""#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
        for (one, other) in [
            ("1", "2"),
            ("1", "10"),
            ("1", "-1"),
            ("1", "\"1\""),
            ("true", "1"),
            ("null", "{}"),
            (r#"["a","b"]"#, r#"["ab"]"#),
            (r#""\ud800""#, r#""\ud801""#),
            ("[[1],2]", "[1,[2]]"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} {other}");
        }
    }
}
