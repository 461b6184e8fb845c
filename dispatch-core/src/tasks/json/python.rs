use std::fmt::Write as _;

use super::{
    Malformed,
    scan::Scanner,
    string::{Wtf8, string},
};

/// The text that Python's `json.dumps(value, sort_keys=True, separators=(",", ":"))` makes of a value that it has read,
/// whole floats up to 2^53 as ints: the same for all that it calls equal, save booleans and numbers.
///
/// # Errors
/// As [`members`](super::members).
pub fn as_python_writes(text: &str) -> Result<String, Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    let from = scanner.at;
    scanner.value(0)?;
    let value = &text[from..scanner.at];
    scanner.end()?;
    let mut out = String::with_capacity(value.len());
    write(value, &mut out);
    Ok(out)
}

/// Of a value that has been found whole.
fn write(value: &str, out: &mut String) {
    match value.as_bytes().first() {
        Some(b'{') => {
            let mut members: Vec<(Vec<u8>, &str)> = Vec::new();
            let mut each = |key: &str, value| {
                let key = characters(key);
                // Of a key that stands twice the last one counts.
                members.retain(|(known, _)| *known != key);
                members.push((key, value));
            };
            let _whole = Scanner::new(value).object(0, &mut each);
            // The order of these bytes is that of code points, which is Python's.
            members.sort_unstable();
            out.push('{');
            for (place, (key, value)) in members.into_iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                write_string(&key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Some(b'[') => {
            out.push('[');
            let mut first = true;
            let _whole = Scanner::new(value).array(0, &mut |item| {
                out.push_str(if std::mem::take(&mut first) { "" } else { "," });
                write(item, out);
            });
            out.push(']');
        }
        Some(b'"') => write_string(&characters(value), out),
        Some(b'-' | b'0'..=b'9') if !value.ends_with('y') => write_number(value, out),
        _ => out.push_str(value),
    }
}

/// A string's own characters in UTF-8, and lone surrogates as three bytes each.
fn characters(raw: &str) -> Vec<u8> {
    let bytes: Result<Wtf8, _> = serde_json::from_str(raw);
    bytes.map_or_else(|_| string(raw).unwrap_or_default().as_bytes().to_vec(), |text| text.0)
}

fn write_string(mut characters: &[u8], out: &mut String) {
    out.push('"');
    loop {
        let valid = str::from_utf8(characters).map_or_else(|error| error.valid_up_to(), str::len);
        for c in str::from_utf8(&characters[..valid]).unwrap_or_default().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(c),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _infallible = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        // What is no character is a lone surrogate: its first four bits, then twice six.
        let [_, second, third, rest @ ..] = &characters[valid..] else {
            break;
        };
        let unit = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
        let _infallible = write!(out, "\\u{unit:04x}");
        characters = rest;
    }
    out.push('"');
}

/// An int as it is, a whole float as an int, another as the shortest that is read as the same.
fn write_number(text: &str, out: &mut String) {
    if !text.contains(['.', 'e', 'E']) {
        return out.push_str(if text == "-0" { "0" } else { text });
    }
    let float: f64 = text.parse().unwrap_or(f64::NAN);
    if float.is_infinite() {
        return out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 {
        let _infallible = write!(out, "{:.0}", float + 0.0);
        return;
    }
    let shortest = format!("{float:e}");
    let (digits, power) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    if (-4..16).contains(&power) {
        let _infallible = write!(out, "{float:?}");
    } else {
        let sign = if power < 0 { '-' } else { '+' };
        let _infallible = write!(out, "{digits}e{sign}{:02}", power.unsigned_abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was made by Python.
    #[test]
    fn it_is_what_python_writes() {
        for (text, expected) in [
            ("{ }", "{}"),
            (r#"{"b": [1, 2.0], "a": null}"#, r#"{"a":null,"b":[1,2]}"#),
            (
                r#"[1e2, -0.0, 0.1, 1e-5, 1.5e16, 9007199254740993.0, 1e400, NaN, -Infinity, 12345678901234567890123, 1e16,
                    123456789.125, 0.0001, -0, -2.50, 9007199254740994.0, -1.25E-7, 2.5e300]"#,
                "[100,0,0.1,1e-05,1.5e+16,9007199254740992,Infinity,NaN,-Infinity,12345678901234567890123,1e+16,\
                 123456789.125,0.0001,0,-2.5,9007199254740994.0,-1.25e-07,2.5e+300]",
            ),
            (
                r#""\u00e9\ud83d\ude00\ud800 \u007f\"\\\n\b\f\r\t\/é""#,
                r#""\u00e9\ud83d\ude00\ud800 \u007f\"\\\n\b\f\r\t/\u00e9""#,
            ),
            (
                r#"{"\ue000":1,"\ud83d\ude00":2,"a":true,"a":false}"#,
                r#"{"a":false,"\ue000":1,"\ud83d\ude00":2}"#,
            ),
        ] {
            assert_eq!(as_python_writes(text).unwrap(), expected, "{text}");
        }
        assert!(as_python_writes("[1,]").is_err());
    }
}
