//! One error type, and the four classes that decide what happens next.

use std::{
    error::Error as StdError,
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A boxed error of any kind.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What a failure means for the message; layers and the driver read nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// This message may work later. Counts as an attempt.
    Retry,
    /// The far side asks for time, if it said how much. Does not count as an attempt.
    Throttled(Option<Duration>),
    /// The far side is down, or refuses us. Does not count as an attempt; the breaker opens.
    Unavailable,
    /// This message never will. Dead letter now.
    Permanent,
}

impl Class {
    /// Whether an attempt that ended so counts towards `max_attempts`.
    #[must_use]
    pub const fn counts(self) -> bool {
        match self {
            Self::Retry | Self::Permanent => true,
            Self::Throttled(_) | Self::Unavailable => false,
        }
    }

    /// The class as one word, as in metrics, dead letters and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Throttled(_) => "throttled",
            Self::Unavailable => "unavailable",
            Self::Permanent => "permanent",
        }
    }
}

/// Says which class each error is of. Write the match without a `_` arm, so that a new variant must choose.
pub trait Classify {
    /// The class of this error.
    fn class(&self) -> Class;

    /// A short stable code for people who count errors, such as an HTTP status; none by default.
    fn code(&self) -> Option<SmolStr> {
        None
    }
}

/// A classified failure.
///
/// Made from any error that is [`Classify`], or by [`Error::retry`] and its three siblings from anything else.
///
/// ```
/// use dispatch_core::{Class, Error};
///
/// let error = Error::permanent("no such account").with_code("404");
/// assert_eq!((error.class(), error.to_string()), (Class::Permanent, "no such account".to_owned()));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    code: Option<SmolStr>,
    source: BoxError,
    later: Option<Later>,
    attempts: Vec<Attempt>,
    trace_id: Option<SmolStr>,
}

/// Where a message goes once the stack has given up on it for now; said by the retry layer, or by a sink that is gone, and read
/// by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Give it again after this long; by the source if it can, else parked in the Store.
    After(Duration),
    /// Every attempt it may have is used up: dead letter.
    Exhausted,
    /// Its deadline has passed: dead letter.
    Expired,
    /// Back to its source, and the pipeline drains: the sink is gone for as long as the process lives; see
    /// [`Error::gone`].
    Gone,
}

impl Error {
    /// A failure of this class.
    pub fn new(class: Class, source: impl Into<BoxError>) -> Self {
        Self(Box::new(Inner {
            class,
            code: None,
            source: source.into(),
            later: None,
            attempts: Vec::new(),
            trace_id: None,
        }))
    }

    /// A failure that may pass: [`Class::Retry`].
    pub fn retry(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Retry, source)
    }

    /// A failure that will not pass: [`Class::Permanent`].
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Permanent, source)
    }

    /// The far side is down or refuses us: [`Class::Unavailable`].
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Unavailable, source)
    }

    /// The sink is gone for as long as this process lives, as standard output is whose reader has closed it:
    /// [`Class::Unavailable`] with [`Later::Gone`]. The message goes back to its source uncounted, and the pipeline drains,
    /// since no other message could be sent either.
    pub fn gone(source: impl Into<BoxError>) -> Self {
        Self::unavailable(source).with_later(Later::Gone)
    }

    /// The far side asks for time: [`Class::Throttled`].
    pub fn throttled(after: Option<Duration>, source: impl Into<BoxError>) -> Self {
        Self::new(Class::Throttled(after), source)
    }

    /// Adds a short stable code, such as an HTTP status.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<SmolStr>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// The same failure under another class; how a user's status table overrides a sink's own judgement.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    /// Says where the message goes next; for layers that end retrying.
    #[must_use]
    pub fn with_later(mut self, later: Later) -> Self {
        self.0.later = Some(later);
        self
    }

    /// Adds the attempts that led here, oldest first; for layers that make several.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The short stable code, if there is one.
    #[must_use]
    pub fn code(&self) -> Option<&SmolStr> {
        self.0.code.as_ref()
    }

    /// Where a layer says the message goes next.
    #[must_use]
    pub fn later(&self) -> Option<Later> {
        self.0.later
    }

    /// The attempts recorded by a retrying layer.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// Takes the recorded attempts out.
    pub fn take_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.0.attempts)
    }

    /// Notes the trace that the failed delivery was part of.
    pub(crate) fn set_trace_id(&mut self, trace_id: SmolStr) {
        self.0.trace_id = Some(trace_id);
    }

    /// Takes the trace that the failed delivery was part of, where a tracer followed it.
    pub(crate) fn take_trace_id(&mut self) -> Option<SmolStr> {
        self.0.trace_id.take()
    }

    /// The whole story on one line: this error and each of its sources.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.0.source.to_string();
        let mut source = self.0.source.source();
        while let Some(next) = source {
            let next_text = next.to_string();
            if !text.ends_with(&next_text) {
                text.push_str(": ");
                text.push_str(&next_text);
            }
            source = next.source();
        }
        text
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("class", &self.0.class)
            .field("code", &self.0.code)
            .field("later", &self.0.later)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.source()
    }
}

impl<E: Classify + StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let code = error.code();
        let mut this = Self::new(error.class(), error);
        this.0.code = code;
        this
    }
}

impl From<BoxError> for Error {
    /// Takes an `Error` out of the box if there is one; anything else may work later.
    fn from(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::retry(error),
        }
    }
}

impl Classify for std::convert::Infallible {
    fn class(&self) -> Class {
        match *self {}
    }
}

/// One failed attempt, as it is remembered in errors, parked retries and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The class's name: `retry`, `throttled`, `unavailable` or `permanent`.
    pub class: SmolStr,
    /// A short stable code, such as an HTTP status.
    pub code: Option<SmolStr>,
    /// What went wrong, with its causes, on one line.
    pub text: String,
}

impl Attempt {
    /// Writes down how attempt `number`, begun at `at`, failed.
    #[must_use]
    pub fn failed(number: u32, at: SystemTime, duration: Duration, error: &Error) -> Self {
        Self {
            number,
            at,
            duration,
            class: SmolStr::new_static(error.class().name()),
            code: error.code().cloned(),
            text: error.report(),
        }
    }

    /// Bounds a history: of more than 50 attempts the first 10 and the last 40 stay. What is throttled for hours fails
    /// without end, and its history is written down each time.
    pub fn shorten(history: &mut Vec<Self>) {
        const FIRST: usize = 10;
        const MOST: usize = 50;
        if history.len() > MOST {
            history.drain(FIRST..history.len() - (MOST - FIRST));
        }
    }

    /// Whether it counts towards `max_attempts`; see [`Class::counts`].
    #[must_use]
    pub fn counts(&self) -> bool {
        [Class::Retry.name(), Class::Permanent.name()].contains(&self.class.as_str())
    }
}
