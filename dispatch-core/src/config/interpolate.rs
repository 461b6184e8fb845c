//! `${VAR}` and its kin, filled into string values after parsing, so that no value can add a key.

use std::path::{Path, PathBuf};

/// Where variables and files come from; the process's own unless a test says otherwise.
pub(super) struct Surroundings<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) base_dir: &'a Path,
    /// Stand-ins for what is not set, for checks away from the place where it is.
    pub(super) lenient: bool,
}

/// A text with its placeholders filled, and whether it had any.
pub(super) fn fill(text: &str, from: &Surroundings<'_>) -> Result<(String, bool), String> {
    let (mut filled, mut rest, mut any) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some(end) = after.find('}') else {
                return Err("`${` without its `}`; a plain dollar sign is `$$`".to_owned());
            };
            filled.push_str(&value(&after[..end], from)?);
            rest = &after[end + 1..];
            any = true;
        } else {
            filled.push('$');
        }
    }
    filled.push_str(rest);
    Ok((filled, any))
}

fn value(inside: &str, from: &Surroundings<'_>) -> Result<String, String> {
    if let Some(path) = inside.strip_prefix("file:") {
        return file(path, from);
    }
    let end = inside
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "`${{{inside}}}` names no variable: write ${{NAME}}, ${{NAME:-default}}, ${{NAME:?message}} or ${{file:/path}}"
        ));
    }
    let set = (from.variable)(name);
    if let Some(default) = rest.strip_prefix(":-") {
        return Ok(set
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| default.to_owned()));
    }
    if let Some(message) = rest.strip_prefix(":?") {
        let set = set.filter(|value| !value.is_empty());
        return set
            .or_else(|| stand_in(name, from))
            .ok_or_else(|| format!("{name} is not set: {message}"));
    }
    if let Some(default) = rest.strip_prefix(':') {
        return Err(format!("a default is written ${{{name}:-{default}}}"));
    }
    if !rest.is_empty() {
        return Err(format!(
            "`${{{inside}}}`: after the name comes `:-default`, `:?message` or the end"
        ));
    }
    set.or_else(|| stand_in(name, from))
        .ok_or_else(|| format!("the environment variable {name} is not set; ${{{name}:-default}} gives a default"))
}

fn stand_in(name: &str, from: &Surroundings<'_>) -> Option<String> {
    from.lenient.then(|| name.to_lowercase())
}

/// A file's text without the newline at its end: a secret mounted by an orchestrator.
fn file(path: &str, from: &Surroundings<'_>) -> Result<String, String> {
    let full: PathBuf = from.base_dir.join(path);
    match std::fs::read_to_string(&full) {
        Ok(text) => Ok(text
            .strip_suffix('\n')
            .map(|text| text.strip_suffix('\r').unwrap_or(text))
            .unwrap_or(&text)
            .to_owned()),
        Err(_) if from.lenient => Ok("file".to_owned()),
        Err(error) => Err(format!("cannot read {}: {error}", full.display())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        fill(
            text,
            &Surroundings {
                variable: &variable,
                base_dir: Path::new("/nowhere"),
                lenient: false,
            },
        )
        .map(|(text, _)| text)
    }

    #[test]
    fn each_form_is_filled() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a ${SET} b ${SET}", "a value b value"),
            ("${UNSET:-default}", "default"),
            ("${EMPTY:-default}", "default"),
            ("${SET:-default}", "value"),
            ("${SET:?needed}", "value"),
            ("$${SET} costs $5", "${SET} costs $5"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_mistake_says_what_to_write() {
        for (text, part) in [
            ("${UNSET}", "UNSET is not set"),
            ("${UNSET:?set it to the queue}", "set it to the queue"),
            ("${UNSET:default}", "${UNSET:-default}"),
            ("${SET", "without its `}`"),
            ("${}", "names no variable"),
            ("${file:secret}", "/nowhere/secret"),
        ] {
            let error = filled(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_a_variable_holds_is_never_read_again(value in ".*") {
            let variable = |_: &str| Some(value.clone());
            let from = Surroundings { variable: &variable, base_dir: Path::new("/"), lenient: false };

            prop_assert_eq!(fill("${X}", &from).unwrap().0, value.clone());
        }
    }
}
