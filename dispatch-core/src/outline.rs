//! Where the parts of a named task stand in its message.

use std::num::NonZeroU16;

/// Where in a message's payload its task's name and arguments stand: read once by a source, used by a sink that would
/// otherwise read the whole text again.
///
/// A message has one only as long as nothing of it was changed; whoever looks for one must manage without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    name_at: u16,
    name_len: NonZeroU16,
    /// Where the arguments begin; 0: there are none.
    arguments_at: u32,
}

impl Outline {
    /// The outline of `text`, of which `name` and `arguments` are pieces; none if they are not, or lie too far off.
    #[must_use]
    pub fn of(text: &str, name: &str, arguments: Option<&str>) -> Option<Self> {
        let place = |piece: &str| {
            let at = piece.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
            text.get(at..at.checked_add(piece.len())?).map(|_| at)
        };
        Some(Self {
            name_at: place(name)?.try_into().ok()?,
            name_len: u16::try_from(name.len()).ok()?.try_into().ok()?,
            arguments_at: match arguments {
                Some(arguments) => place(arguments)?.try_into().ok()?,
                None => 0,
            },
        })
    }

    /// The task's name.
    #[must_use]
    pub fn name<'p>(&self, payload: &'p [u8]) -> Option<&'p [u8]> {
        let from = usize::from(self.name_at);
        payload.get(from..from + usize::from(self.name_len.get()))
    }

    /// Its arguments, in order or by name, and whatever stands behind them; none if it has none.
    #[must_use]
    pub fn arguments<'p>(&self, payload: &'p [u8]) -> Option<&'p [u8]> {
        payload
            .get(self.arguments_at as usize..)
            .filter(|_| self.arguments_at > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_text_are_found_again_and_others_are_not() {
        let text = r#"{"task": "a.b", "args": [1], "uuid": "x"}"#;
        let (name, arguments) = (&text[10..13], &text[24..27]);

        let outline = Outline::of(text, name, Some(arguments)).unwrap();

        assert_eq!(outline.name(text.as_bytes()), Some(&b"a.b"[..]));
        assert_eq!(outline.arguments(text.as_bytes()), Some(&text.as_bytes()[24..]));
        assert_eq!(Outline::of(text, name, None).unwrap().arguments(text.as_bytes()), None);
        assert_eq!(outline.name(b"{}"), None);
        let far = " ".repeat(70_000) + text;
        for (text, name) in [(text, "elsewhere"), (text, &text[..0]), (&far, &far[70_010..70_013])] {
            assert_eq!(Outline::of(text, name, None), None, "{name:?}");
        }
    }
}
