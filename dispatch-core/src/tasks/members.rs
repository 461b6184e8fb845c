//! What is added to a message on its way: members at the end of its text.

/// Adds members to the end of an object's text, which must be one; the rest stays as it is.
///
/// ```
/// use dispatch_core::tasks::with_members;
///
/// let text = with_members(r#"{"task": "a.b"}"#, &[("channel", "jobs")]);
/// assert_eq!(text, r#"{"task": "a.b", "channel": "jobs"}"#);
/// ```
#[must_use]
pub fn with_members(object: &str, members: &[(&str, &str)]) -> String {
    let more = more_members(members);
    let mut text = String::with_capacity(object.len() + more.len());
    add_members(object, &more, |part| text.push_str(part));
    text
}

/// Members as they stand behind others; for [`add_members`].
#[must_use]
pub fn more_members(members: &[(&str, &str)]) -> String {
    let room = members.iter().map(|(key, value)| key.len() + value.len() + 8);
    let mut more = String::with_capacity(room.sum());
    for (key, value) in members {
        more.push_str(", \"");
        more.push_str(key);
        more.push_str("\": ");
        let is_plain = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if value.bytes().all(is_plain) {
            more.push('"');
            more.push_str(value);
            more.push('"');
        } else {
            more.push_str(&serde_json::Value::from(*value).to_string());
        }
    }
    more
}

/// As [`with_members`] with what [`more_members`] has made, piece by piece into `push`: the same for many objects is made
/// once.
pub fn add_members(object: &str, more: &str, mut push: impl FnMut(&str)) {
    let Some(inner) = object.trim_end().strip_suffix('}') else {
        return push(object);
    };
    push(inner);
    let is_first = inner.trim_end().ends_with('{');
    push(more.strip_prefix(", ").filter(|_| is_first).unwrap_or(more));
    push("}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_whatever_the_object_holds() {
        assert_eq!(with_members("{}", &[("a", "b")]), r#"{"a": "b"}"#);
        assert_eq!(with_members("{ } ", &[("a", "b")]), r#"{ "a": "b"}"#);
        assert_eq!(
            with_members(r#"{"x": {}}"#, &[("a", "q\""), ("c", "d")]),
            r#"{"x": {}, "a": "q\"", "c": "d"}"#
        );
    }
}
