//! JSON as Python writes it, read without loss: `NaN`, `Infinity`, numbers of any length and lone surrogates survive,
//! because values are passed on as the text they came in.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Visitor};

/// Deeper nesting is refused: Python itself gives up at about a thousand.
const DEEPEST: usize = 512;

/// What is no JSON, and from which byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no JSON from byte {0} on")]
pub struct Malformed(pub usize);

/// The members of an object, in order, each value as its own text; none if the text is another value.
///
/// ```
/// use dispatch_core::tasks::json::members;
///
/// let members = members(r#"{"args": [NaN, 12345678901234567890123]}"#).unwrap().unwrap();
/// assert_eq!((&*members[0].0, members[0].1), ("args", "[NaN, 12345678901234567890123]"));
/// ```
///
/// # Errors
/// The text is not JSON, is nested more than 512 deep, or goes on after its value.
pub fn members(text: &str) -> Result<Option<Vec<(Cow<'_, str>, &str)>>, Malformed> {
    let mut members = Vec::with_capacity(8);
    let is_object = each_member(text, |key, value| members.push((key, value)))?;
    Ok(is_object.then_some(members))
}

/// Calls `each` with every member of an object, in order, each value as its own text; false if the text is another value.
/// Whoever wants few of them need not gather all.
///
/// # Errors
/// As [`members`]; `each` has then seen what came before.
pub fn each_member<'t>(text: &'t str, mut each: impl FnMut(Cow<'t, str>, &'t str)) -> Result<bool, Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    let is_object = scanner.peek() == Some(b'{');
    if is_object {
        let is_simple = scanner.is_simple;
        scanner.object(0, &mut |key, value| match key.get(1..key.len() - 1) {
            Some(key) if is_simple => each(key.into(), value),
            _ => each(string(key).unwrap_or_default(), value),
        })?;
    } else {
        scanner.value(0)?;
    }
    scanner.end().map(|()| is_object)
}

/// A JSON string's own text; lone surrogates become U+FFFD. None if the value is no string.
#[must_use]
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !has(inner, |byte| byte == b'\\') {
        return Some(inner.into());
    }
    let bytes: Wtf8 = serde_json::from_str(raw).ok()?;
    Some(String::from_utf8_lossy(&bytes.0).into_owned().into())
}

/// A string whose lone surrogates are kept, as three bytes each.
struct Wtf8(Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Wtf8;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The same bytes for values that Python calls equal: the order of an object's keys, the spelling of strings and numbers
/// (`1`, `1.0`, `10e-1`) and white space do not matter; booleans are no numbers here.
///
/// # Errors
/// As [`members`].
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

/// Whether any byte is `wanted`. Looks to the end whatever it finds: so many bytes are looked at together.
fn has(text: &str, wanted: impl Fn(u8) -> bool) -> bool {
    text.as_bytes().iter().fold(false, |found, byte| found | wanted(*byte))
}

/// A one in each of eight bytes.
const ONES: u64 = u64::MAX / 255;
const QUOTES: u64 = ONES * b'"' as u64;
const BACKSLASHES: u64 = ONES * b'\\' as u64;

/// Has the top bit set of the first byte that is smaller than `least`, and perhaps of bytes behind it.
const fn below(eight: u64, least: u64) -> u64 {
    eight.wrapping_sub(ONES * least) & !eight & (ONES << 7)
}

const fn zeros(eight: u64) -> u64 {
    below(eight, 1)
}

/// How many bytes of a string come before the next quote, backslash or control character.
fn plain(text: &[u8]) -> usize {
    before(text, |eight| {
        below(eight, 0x20) | zeros(eight ^ QUOTES) | zeros(eight ^ BACKSLASHES)
    })
}

/// How many bytes come before the first one that `find` finds, eight at a look.
#[inline]
fn before(text: &[u8], find: impl Fn(u64) -> u64) -> usize {
    let (whole, rest) = text.as_chunks::<8>();
    for (at, eight) in whole.iter().enumerate() {
        let found = find(u64::from_le_bytes(*eight));
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    // What is missing is nothing that is ever looked for.
    let mut last = [0xff; 8];
    last[..rest.len()].copy_from_slice(rest);
    let found = find(u64::from_le_bytes(last)).trailing_zeros() as usize / 8;
    whole.len() * 8 + found.min(rest.len())
}

/// Walks over JSON text.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
    /// Whether a string ends at the next quote: there is neither a backslash nor a control character in the text.
    is_simple: bool,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            is_simple: !has(text, |byte| (byte < b' ') | (byte == b'\\')),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    const fn malformed<T>(&self) -> Result<T, Malformed> {
        Err(Malformed(self.at))
    }

    fn eat(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return self.malformed();
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.malformed()
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > DEEPEST {
            return self.malformed();
        }
        match self.peek() {
            Some(b'{') => self.object(depth, &mut |_, _| ()),
            Some(b'[') => self.array(depth, &mut |_| ()),
            Some(b'"') => self.string(),
            _ => self.word(),
        }
    }

    /// `each` gets the text of the key, quotes and all, and that of the value.
    fn object(&mut self, depth: usize, each: &mut impl FnMut(&'t str, &'t str)) -> Result<(), Malformed> {
        self.eat(b'{')?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let from = self.at;
            self.string()?;
            let key = &self.text[from..self.at];
            self.space();
            self.eat(b':')?;
            self.space();
            let from = self.at;
            self.value(depth + 1)?;
            each(key, &self.text[from..self.at]);
            self.space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(());
            }
            self.eat(b',')?;
        }
    }

    fn array(&mut self, depth: usize, each: &mut impl FnMut(&'t str)) -> Result<(), Malformed> {
        self.eat(b'[')?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let from = self.at;
            self.value(depth + 1)?;
            each(&self.text[from..self.at]);
            self.space();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(());
            }
            self.eat(b',')?;
        }
    }

    fn string(&mut self) -> Result<(), Malformed> {
        self.eat(b'"')?;
        if self.is_simple {
            self.at += before(&self.text.as_bytes()[self.at..], |eight| zeros(eight ^ QUOTES));
            return self.eat(b'"');
        }
        loop {
            self.at += plain(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                                    return self.malformed();
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.malformed(),
                    }
                }
                // Control characters must be escaped.
                _ => return self.malformed(),
            }
        }
    }

    /// A number, or one of the words.
    fn word(&mut self) -> Result<(), Malformed> {
        const WORDS: [&str; 6] = ["true", "false", "null", "NaN", "Infinity", "-Infinity"];
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            let rest = &self.text[self.at..];
            if let Some(word) = WORDS.into_iter().find(|word| rest.starts_with(word)) {
                self.at += word.len();
                return Ok(());
            }
        }
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { self.malformed() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_python_writes_is_read_and_what_is_no_json_is_not() {
        for good in [
            "{}",
            r#" {"a" : [1, -0, 0.5, 1e9, 1E+2, -Infinity, NaN, Infinity], "b": {"c": null}} "#,
            r#"{"s": "\ud800 \u00e9 \"\\ é"}"#,
            "12345678901234567890123456789012345678901234567890",
            "[]",
        ] {
            assert!(members(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "01",
            "1.",
            "-",
            "+1",
            "nul",
            "'a'",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "{} {}",
            "{a:1}",
            "1e",
            "lambda: 1",
        ] {
            assert!(members(bad).is_err(), "{bad}");
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(members(&deep(512)).is_ok());
        assert!(members(&deep(100_000)).is_err());
    }

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

    #[test]
    fn a_string_ends_where_its_quote_is_wherever_that_falls() {
        for length in 0..40 {
            for (special, plain_one) in [
                ('"', true),
                ('\\', true),
                ('\u{1f}', true),
                ('\0', true),
                (' ', false),
                ('é', false),
            ] {
                for at in 0..length {
                    let mut text: Vec<char> = "!é#[]~\u{7f}😀ab".chars().cycle().take(length).collect();
                    text[at] = special;
                    let text: String = text.into_iter().collect();
                    let bytewise = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f));

                    assert_eq!(plain(text.as_bytes()), bytewise.unwrap_or(text.len()), "{text:?}");
                    assert_eq!(bytewise.is_some(), plain_one, "{text:?}");
                }
            }
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_text_is_read_whole(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();

            let found = members(&text).unwrap();

            match (&value, found) {
                (serde_json::Value::Object(object), Some(members)) => {
                    prop_assert_eq!(object.len(), members.len());
                    for (key, raw) in members {
                        prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(raw).unwrap(), &object[&*key]);
                    }
                }
                (other, None) => prop_assert!(!other.is_object()),
                (other, Some(_)) => prop_assert!(false, "{other}"),
            }
            prop_assert_eq!(canonical(&text).unwrap(), canonical(&value.to_string()).unwrap());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), cut in any::<prop::sample::Index>()) {
            drop((members(&text), canonical(&text)));
            let json = format!(r#"{{"task": {text:?}, "args": [1.5e3, NaN]}}"#);
            let at = (0..=json.len()).rev().find(|at| *at <= cut.index(json.len() + 1) && json.is_char_boundary(*at));
            drop(canonical(&json[..at.unwrap_or_default()]));
        }
    }
}
