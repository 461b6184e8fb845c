use super::{
    Malformed,
    words::{QUOTES, before, has, plain, zeros},
};

/// Deeper nesting is refused: Python itself gives up at about a thousand.
const DEEPEST: usize = 512;

/// Walks over JSON text.
pub(super) struct Scanner<'t> {
    text: &'t str,
    pub(super) at: usize,
    /// Whether a string ends at the next quote: there is neither a backslash nor a control character in the text.
    pub(super) is_simple: bool,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            is_simple: !has(text, |byte| (byte < b' ') | (byte == b'\\')),
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn space(&mut self) {
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

    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.malformed()
        }
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<(), Malformed> {
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
    pub(super) fn object(&mut self, depth: usize, each: &mut impl FnMut(&'t str, &'t str)) -> Result<(), Malformed> {
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

    pub(super) fn array(&mut self, depth: usize, each: &mut impl FnMut(&'t str)) -> Result<(), Malformed> {
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
