//! Pulls lines from standard input, until it ends.
//!
//! Each line is a message with a random id and the metadata `stdin_line` (from 1). A line that cannot be a message —
//! longer than `max_line`, or no JSON where `format` asks for it — never reaches the sink: it is kept as a dead letter
//! with the reason `rejected`, cut to `max_line`.
//!
//! # Guarantees
//! Standard input cannot be read again, so what was read is kept: a failed message is parked in the Store, one that is
//! given back comes again. When the pipeline is stopped before the input ends, the whole lines that were read and not
//! worked on are parked too, for the next run of the pipeline; a line that was read by half becomes a dead letter. After a
//! reload the pipeline goes on where it was, in the midst of a line too. A process that is killed loses what it had read.
//!
//! # Capabilities
//! Bounded, in order; no lease. The end is told once all lines are settled.
//!
//! ```toml
//! [source]
//! type = "stdin"
//! format = "ndjson"     # or "lines" (default)
//! # max_line = "1MiB"
//! ```
//!
//! ```
//! use dispatch_sources::stdin::StdinSourceConfig;
//!
//! let config: StdinSourceConfig = toml::from_str(r#"format = "ndjson""#)?;
//! # let _ = config;
//! # Ok::<_, toml::de::Error>(())
//! ```

mod input;

use std::{fmt, io::Read, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Capabilities, Delivery, Error, Message, Order, Received, Settler, Source,
    config::{BuildContext, ByteSize, ConfigError, SourceConfig, Stability},
    pipeline::parked_queue,
    store::DeadLetter,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::input::{Hold, Input};
pub use crate::lines::Format;
use crate::{
    framing::{Fault, Frame, Framer},
    lines::rejected,
    loans::Loans,
};

/// How many rejected lines are kept back before they are written down.
const REJECTED: usize = 64;

/// How to read standard input.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StdinSourceConfig {
    /// What a line must be.
    #[serde(default)]
    pub format: Format,
    /// The longest line that is a message.
    #[serde(default = "default_max_line")]
    pub max_line: ByteSize,
}

fn default_max_line() -> ByteSize {
    ByteSize(1 << 20)
}

impl Default for StdinSourceConfig {
    fn default() -> Self {
        Self {
            format: Format::default(),
            max_line: default_max_line(),
        }
    }
}

impl SourceConfig for StdinSourceConfig {
    const TYPE: &'static str = "stdin";
    const SUMMARY: &'static str = "pulls lines from standard input";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(StdinSource::new(&self, context)))
    }
}

/// Pulls lines from standard input. The module's page says how.
pub struct StdinSource {
    config: StdinSourceConfig,
    context: BuildContext,
    input: Input,
    /// From the first read on.
    hold: Option<Hold>,
    ended: bool,
    framer: Framer,
    rejected: Vec<DeadLetter>,
    /// How many have been written down.
    buried: u64,
    /// How many have been put into the Store for the next run.
    parked: u64,
    loans: Arc<Loans>,
}

impl fmt::Debug for StdinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinSource")
            .field("framer", &self.framer)
            .finish_non_exhaustive()
    }
}

impl StdinSource {
    /// Reads the standard input of this process. Of several sources one has it at a time; the next one goes on where it left.
    #[must_use]
    pub fn new(config: &StdinSourceConfig, context: &BuildContext) -> Self {
        Self::of(config, context, Input::standard())
    }

    /// Reads `reader` instead.
    pub fn from_reader(config: &StdinSourceConfig, context: &BuildContext, reader: impl Read + Send + 'static) -> Self {
        Self::of(config, context, Input::of(reader))
    }

    fn of(config: &StdinSourceConfig, context: &BuildContext, input: Input) -> Self {
        Self {
            config: config.clone(),
            context: context.clone(),
            input,
            hold: None,
            ended: false,
            framer: framer(config, 0),
            rejected: Vec::new(),
            buried: 0,
            parked: 0,
            loans: Arc::default(),
        }
    }

    /// The next piece of input; none at its end.
    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let hold = match &mut self.hold {
            Some(hold) => hold,
            none => {
                let hold = none.insert(self.input.hold().await);
                self.framer = framer(&self.config, hold.lines);
                let left = std::mem::take(&mut hold.left);
                if !left.is_empty() {
                    return Ok(Some(left.freeze()));
                }
                hold
            }
        };
        let piece = hold.next().await.map_err(Error::unavailable)?;
        self.ended = piece.is_none();
        Ok(piece)
    }

    /// The lines that are there; those that cannot be messages are put aside.
    fn messages(&mut self, max: usize, ended: bool) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < max && self.rejected.len() < REJECTED {
            let next = self.framer.next();
            let Some(frame) = next.or_else(|| ended.then(|| self.framer.finish()).flatten()) else {
                break;
            };
            match frame.fault.clone() {
                Some(fault) => {
                    let letter = self.reject(frame, &fault);
                    self.rejected.push(letter);
                }
                None => messages.push(message(frame)),
            }
        }
        messages
    }

    fn reject(&self, frame: Frame, fault: &Fault) -> DeadLetter {
        tracing::warn!(line = frame.number, %fault, "line rejected");
        rejected(&self.context, &message(frame), fault)
    }

    /// The whole lines that nobody has got; those that cannot be messages are put aside.
    fn leftovers(&mut self) -> Vec<Message> {
        let (mut rest, mut letters) = (Vec::new(), Vec::new());
        loop {
            let messages = self.messages(usize::MAX, self.ended);
            if messages.is_empty() && self.rejected.is_empty() {
                break;
            }
            rest.extend(messages);
            letters.append(&mut self.rejected);
        }
        self.rejected = letters;
        rest
    }

    /// Keeps the lines that cannot be messages.
    async fn bury(&mut self) -> Result<(), Error> {
        self.context.store.dead_letters().bury(self.rejected.clone()).await?;
        self.buried += self.rejected.len() as u64;
        self.rejected.clear();
        Ok(())
    }
}

fn message(frame: Frame) -> Message {
    Message::new(frame.bytes).meta("stdin_line", frame.number.to_string())
}

fn framer(config: &StdinSourceConfig, lines: u64) -> Framer {
    Framer::new(config.format.is_json(), config.max_line.as_usize(), lines, 0)
}

#[async_trait]
impl Source for StdinSource {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.order = Order::Whole;
        capabilities.bounded = true;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.loans.clone()
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        let max = max.max(1);
        loop {
            let again = self.loans.lend_again(max);
            if !again.is_empty() {
                return Ok(Received::Batch(again));
            }
            let ended = self.ended;
            let messages = self.messages(max, ended);
            if !messages.is_empty() {
                let batch: Vec<Delivery> = messages.into_iter().map(|message| self.loans.lend(message)).collect();
                return Ok(Received::Batch(batch));
            }
            if !self.rejected.is_empty() {
                self.bury().await?;
            } else if ended {
                if self.loans.all_settled().await {
                    return Ok(Received::End);
                }
            } else {
                let loans = self.loans.clone();
                tokio::select! {
                    piece = self.read() => {
                        if let Some(piece) = piece? {
                            self.framer.buffer().extend_from_slice(&piece);
                        }
                    }
                    () = loans.came_back() => {}
                }
            }
        }
    }

    fn rejected(&self) -> u64 {
        self.buried
    }

    fn parked(&self) -> u64 {
        self.parked
    }

    async fn close(&mut self) -> Result<(), Error> {
        let mut rest = Vec::new();
        if let Some(mut hold) = self.hold.take() {
            let in_hand = hold.in_hand().await;
            self.framer.buffer().extend_from_slice(&in_hand);
            rest = self.leftovers();
            if self.input.has_successor() {
                (hold.lines, hold.left) = self.framer.hand_over();
            }
            // A line that was too long by now ends here, whoever goes on.
            if let Some(half) = self.framer.finish() {
                let letter = self.reject(half, &Fault::Half);
                self.rejected.push(letter);
            }
        }
        self.ended = true;
        let queue = parked_queue(&self.context.pipeline);
        self.parked += self.loans.park(&self.context.store, queue, rest).await?;
        if self.rejected.is_empty() {
            Ok(())
        } else {
            self.bury().await
        }
    }
}
