//! Files of `NAME=VALUE` lines, as shells, Docker and Go's godotenv know them.

use std::path::Path;

use crate::failure::{Failure, Result};

/// Reads a file's lines, or says all that is wrong with them; never what they say, which may be a secret.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let failed = |what: String| Failure::config(format!("the environment file {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let (mut read, mut problems) = (Vec::<(String, String)>::new(), Vec::new());
    for line in dotenvy::from_read_iter(plain(&text).as_bytes()) {
        match line {
            Ok(pair) => read.push(pair),
            Err(_) => problems.push(match read.last() {
                Some((name, _)) => format!("after {name}, a line is not NAME=VALUE"),
                None => "its first line is not NAME=VALUE".to_owned(),
            }),
        }
    }
    if problems.is_empty() {
        Ok(read)
    } else {
        problems.dedup();
        Err(failed(format!(
            "{}; a comment begins with #, and a quote must end",
            problems.join("; ")
        )))
    }
}

/// The same lines for dotenvy, which reads a value without quotes as a shell does: a space or a lone quote in one is a
/// mistake to it, and a backslash is gone. Go's godotenv, which sqsd reads its file with, takes what stands there, up to a
/// comment. So such values are put in quotes here. `NAME: value` becomes `NAME=value`.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len() * 2);
    let mut open = None;
    for line in text.trim_start_matches('\u{feff}').lines() {
        match split(line).filter(|_| open.is_none()) {
            Some((name, value)) if value.trim_start().starts_with(['"', '\'']) => {
                plain.extend([name, "=", value.trim_start()]);
                open = left_open(None, value);
            }
            Some((name, value)) => {
                plain.extend([name, "=\""]);
                quote(bare(value), &mut plain);
                plain.push('"');
            }
            None => {
                plain.push_str(line);
                if open.is_some() {
                    open = left_open(open, line);
                }
            }
        }
        plain.push('\n');
    }
    plain
}

/// A line's name, with its `export`, and what stands behind the sign. None where it has no name.
fn split(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(['=', ':'])?;
    let bare = name.trim();
    let word = bare
        .strip_prefix("export")
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map_or(bare, str::trim_start);
    let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
    is_name.then_some((bare, value))
}

/// A value without quotes: what stands before a comment, which has a space before it.
fn bare(value: &str) -> &str {
    let space = |c: char| c == ' ' || c == '\t';
    let comment = value
        .match_indices('#')
        .find(|(at, _)| value[..*at].ends_with(space))
        .map_or(value.len(), |(at, _)| at);
    value[..comment].trim()
}

/// Writes `value` so that in double quotes it is itself. `${name}` and `$NAME` stay what they are.
fn quote(value: &str, to: &mut String) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '$']) {
        let (before, special) = rest.split_at(at);
        to.push_str(before);
        let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let is_any = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let in_braces = special
            .strip_prefix("${")
            .and_then(|inner| inner.split_once('}'))
            .filter(|(name, _)| !name.is_empty() && name.chars().all(is_any));
        let upper = special
            .strip_prefix('$')
            .map(|inner| inner.split_at(inner.find(|c| !is_upper(c)).unwrap_or(inner.len())))
            .filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_'));
        rest = if let Some(dollar) = special.strip_prefix("\\$") {
            to.push_str("\\$");
            dollar
        } else if let Some((name, after)) = in_braces.or(upper) {
            to.extend(["${", name, "}"]);
            after
        } else {
            to.push('\\');
            to.push_str(&special[..1]);
            &special[1..]
        };
    }
    to.push_str(rest);
}

/// The quote that is still open at the end of `text`, which begins within `open`.
fn left_open(mut open: Option<char>, text: &str) -> Option<char> {
    let (mut before, mut escaped) = (' ', false);
    for c in text.chars() {
        match open {
            _ if escaped => escaped = false,
            _ if c == '\\' => escaped = true,
            Some(quote) if c == quote => open = None,
            None if c == '\'' || c == '"' => open = Some(c),
            None if c == '#' && before.is_whitespace() => break,
            _ => {}
        }
        before = c;
    }
    open
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[track_caller]
    fn assert_reads(text: &str, expected: &[(&str, &str)]) {
        let (_directory, path) = written(text);
        let read = read(&path).unwrap_or_else(|failure| panic!("{text:?}: {}", failure.text));
        let read: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(read, expected, "{text:?}");
    }

    #[test]
    fn a_file_has_comments_quotes_and_exports() {
        let url = "https://queue.amazonaws.com/80398EXAMPLE/MyQueue";
        assert_reads(
            &format!("# words, don't\nexport A=1\nB='x y'\nC=\"q\" # more\nD=${{A}}2\n\nE={url}\n"),
            &[("A", "1"), ("B", "x y"), ("C", "q"), ("D", "12"), ("E", url)],
        );
    }

    #[test]
    fn a_value_without_quotes_is_what_stands_there() {
        for (text, expected) in [
            ("A=bar baz", "bar baz"),
            ("A=  bar  baz \t", "bar  baz"),
            ("A = bar", "bar"),
            ("A: bar baz", "bar baz"),
            ("export  A = bar baz # a comment", "bar baz"),
            ("A=bar #one # two", "bar"),
            ("A=bar#baz", "bar#baz"),
            ("A=#abc", "#abc"),
            ("A= # nothing", ""),
            ("A=", ""),
            ("A=it's \"so\"", "it's \"so\""),
            (r"A=C:\new\table", r"C:\new\table"),
            (r"A=5\$ and $ and $$ and $x", "5$ and $ and $$ and $x"),
            ("A=http://h:1/p?q=r&s='t'", "http://h:1/p?q=r&s='t'"),
            ("A=a\r", "a"),
            ("\u{feff}A=a", "a"),
        ] {
            assert_reads(text, &[("A", expected)]);
            assert_reads(&format!("{text}\nB=2\n"), &[("A", expected), ("B", "2")]);
        }
    }

    #[test]
    fn names_stand_for_their_values() {
        let is = "FIRST_ONE=a b\nsecond=2\n";
        for (value, expected) in [
            ("$FIRST_ONE/c", "a b/c"),
            ("${FIRST_ONE}c${second}", "a bc2"),
            ("\"${FIRST_ONE} c\"", "a b c"),
            ("'$FIRST_ONE'", "$FIRST_ONE"),
        ] {
            assert_reads(
                &format!("{is}A={value}"),
                &[("FIRST_ONE", "a b"), ("second", "2"), ("A", expected)],
            );
        }
    }

    #[test]
    fn a_value_in_quotes_may_have_several_lines() {
        assert_reads(
            "A=\"one\nB=two words \\\" # it\nthree\" # more\nC='x\nD: y\n'\nE=4 5",
            &[
                ("A", "one\nB=two words \" # it\nthree"),
                ("C", "x\nD: y\n"),
                ("E", "4 5"),
            ],
        );
    }

    #[test]
    fn a_malformed_file_is_told_of_without_its_secrets() {
        let (_directory, path) = written("A=1\nthe canary sings\nB=2\nC='canary' sings\n");

        let failure = read(&path).unwrap_err();

        assert!(
            failure.text.contains("after A, a line") && failure.text.contains("after B, a line"),
            "{}",
            failure.text
        );
        assert!(!failure.text.contains("canary"), "{}", failure.text);
    }

    #[test]
    fn a_file_that_is_not_there_is_a_failure() {
        let failure = read(Path::new("no/such/.env")).unwrap_err();

        assert!(
            failure.text.contains("no/such/.env: cannot be read"),
            "{}",
            failure.text
        );
    }
}
