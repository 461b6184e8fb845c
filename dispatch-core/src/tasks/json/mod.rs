//! JSON as Python writes it, read without loss: `NaN`, `Infinity`, numbers of any length and lone surrogates survive,
//! because values are passed on as the text they came in.

mod canonical;
mod python;
mod scan;
mod string;
mod words;

use std::borrow::Cow;

pub use self::{canonical::canonical, python::as_python_writes, string::string};

use self::scan::Scanner;

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
