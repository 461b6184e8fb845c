//! Where the parts of a named task stand in its message.

use std::num::NonZeroU16;

/// Where in a message's payload its task's name, arguments and id stand: read once by a source, used by a sink that would
/// otherwise read the whole text again.
///
/// A message has one only as long as nothing of it was changed; whoever looks for one must manage without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    name_at: u16,
    name_len: NonZeroU16,
    id_at: u16,
    /// 0: there is none.
    id_len: u16,
    /// Where the arguments begin; 0: there are none.
    arguments_at: u32,
}

impl Outline {
    /// The outline of `text`, of which `name`, `id` and `arguments` are pieces; none if the name or the arguments are not,
    /// or lie too far off. An id that does is not in it.
    #[must_use]
    pub fn of(text: &str, name: &str, id: Option<&str>, arguments: Option<&str>) -> Option<Self> {
        let place = |piece: &str| {
            let at = piece.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
            text.get(at..at.checked_add(piece.len())?).map(|_| at)
        };
        let short = |piece: &str| Some((u16::try_from(place(piece)?).ok()?, u16::try_from(piece.len()).ok()?));
        let (name_at, name_len) = short(name)?;
        let (id_at, id_len) = id.and_then(short).unwrap_or_default();
        Some(Self {
            name_at,
            name_len: name_len.try_into().ok()?,
            id_at,
            id_len,
            arguments_at: match arguments {
                Some(arguments) => place(arguments)?.try_into().ok()?,
                None => 0,
            },
        })
    }

    /// Whether there is an id.
    #[must_use]
    pub const fn has_id(&self) -> bool {
        self.id_len > 0
    }

    /// The task's id; none if it has none.
    #[must_use]
    pub fn id<'p>(&self, payload: &'p [u8]) -> Option<&'p str> {
        let from = usize::from(self.id_at);
        let id = payload.get(from..from + usize::from(self.id_len))?;
        str::from_utf8(id).ok().filter(|_| self.has_id())
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
        let (name, arguments, id) = (&text[10..13], &text[24..27], &text[38..39]);

        let outline = Outline::of(text, name, Some(id), Some(arguments)).unwrap();

        assert_eq!(outline.name(text.as_bytes()), Some(&b"a.b"[..]));
        assert_eq!(outline.arguments(text.as_bytes()), Some(&text.as_bytes()[24..]));
        assert_eq!((outline.has_id(), outline.id(text.as_bytes())), (true, Some("x")));
        let bare = Outline::of(text, name, None, None).unwrap();
        assert_eq!(
            (bare.arguments(text.as_bytes()), bare.id(text.as_bytes())),
            (None, None)
        );
        assert_eq!(outline.name(b"{}"), None);
        let far = " ".repeat(70_000) + text;
        for (text, name) in [(text, "elsewhere"), (text, &text[..0]), (&far, &far[70_010..70_013])] {
            assert_eq!(Outline::of(text, name, None, None), None, "{name:?}");
        }
        let far = format!("{text}{far}");
        assert!(
            !Outline::of(&far, &far[10..13], Some(&far[70_060..]), None)
                .unwrap()
                .has_id()
        );
    }
}
