use std::{collections::HashSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Classify as _, Delivery, Error, Message, Order, Progress, Received, Settler, Source, Token,
    config::{BuildContext, ConfigError},
    store::DeadLetter,
};
use smol_str::format_smolstr;
use tokio::task::JoinHandle;

use super::{
    FileSourceConfig, FileSourceError, Missing,
    positions::{LineSettler, Positions},
    reader::Reader,
};
use crate::{framing::Frame, lines::rejected};

/// How many rejected lines are kept back before they are written down.
const REJECTED: usize = 64;

/// Pulls lines from files, in order. The module's page says how.
#[derive(Debug)]
pub struct FileSource {
    config: FileSourceConfig,
    context: BuildContext,
    positions: Arc<Positions>,
    /// The files and their sizes, once they were looked for.
    files: Option<Vec<(PathBuf, u64)>>,
    /// How many of them are done or open.
    begun: usize,
    open: Option<Reader>,
    progress: Progress,
    /// Lines that cannot be messages, and the numbers to settle them by.
    rejected: Vec<(u64, DeadLetter)>,
    opening: Option<JoinHandle<Result<Reader, Error>>>,
    /// How many have been written down.
    buried: u64,
}

impl FileSource {
    /// Checks `config` and makes the source; opens nothing.
    ///
    /// # Errors
    /// Names the pattern that is none.
    pub fn new(config: &FileSourceConfig, context: &BuildContext) -> Result<Self, ConfigError> {
        if config.paths.is_empty() {
            return Err(ConfigError::at("paths", "no file is named").help("write one such as [\"in/*.ndjson\"]"));
        }
        for (index, path) in config.paths.iter().enumerate() {
            glob::Pattern::new(path).map_err(|error| {
                ConfigError::at(format!("paths.{index}"), format!("\"{path}\" is no pattern: {error}"))
            })?;
        }
        Ok(Self {
            config: config.clone(),
            positions: Positions::new(context.store.clone()),
            context: context.clone(),
            files: None,
            begun: 0,
            open: None,
            progress: Progress { done: 0, total: 0 },
            rejected: Vec::new(),
            opening: None,
            buried: 0,
        })
    }

    /// Every file that the paths name, each once.
    fn find(&self) -> Result<Vec<(PathBuf, u64)>, FileSourceError> {
        let mut files = Vec::new();
        let mut known = HashSet::new();
        for pattern in &self.config.paths {
            let whole = self.context.base_dir.join(pattern);
            let is_pattern = pattern.contains(['*', '?', '[']);
            let found: Vec<PathBuf> = match is_pattern && !whole.exists() {
                false => vec![whole],
                true => glob::glob(&whole.to_string_lossy())
                    .map_err(|_| FileSourceError::NoMatch(pattern.clone()))?
                    .map(|entry| {
                        entry.map_err(|error| FileSourceError::Read {
                            path: error.path().to_owned(),
                            source: error.into(),
                        })
                    })
                    .filter(|entry| entry.as_ref().map_or(true, |path| !path.is_dir()))
                    .collect::<Result<_, _>>()?,
            };
            if found.is_empty() {
                return Err(FileSourceError::NoMatch(pattern.clone()));
            }
            for path in found {
                let meta = path.metadata().map_err(|source| match source.kind() {
                    std::io::ErrorKind::NotFound => FileSourceError::Missing(path.clone()),
                    _ => FileSourceError::Read {
                        path: path.clone(),
                        source,
                    },
                })?;
                if known.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                    files.push((path, meta.len()));
                }
            }
        }
        Ok(files)
    }

    /// Makes sure that a file is open; says whether there is one.
    async fn advance(&mut self) -> Result<bool, Error> {
        if self.open.is_some() {
            return Ok(true);
        }
        if self.files.is_none() {
            let files = self.find()?;
            self.progress.total = files.iter().map(|(_, length)| length).sum();
            self.files = Some(files);
        }
        let Some((path, _)) = self.files.as_ref().and_then(|files| files.get(self.begun)) else {
            return Ok(false);
        };
        let prefix = format!("file:{}:{}:", self.context.pipeline, self.context.component);
        // In a task of its own: counting the lines of a long file must not begin anew whenever we are asked again.
        let opening = match &mut self.opening {
            Some(opening) => opening,
            None => {
                let (path, config, store) = (path.clone(), self.config.clone(), Arc::clone(&self.context.store));
                self.opening.insert(tokio::spawn(async move {
                    Reader::open(&path, &prefix, &config, &*store).await
                }))
            }
        };
        let opened = opening.await;
        self.opening = None;
        let reader = opened.map_err(Error::retry)??;
        self.begun += 1;
        self.open = Some(reader);
        Ok(true)
    }

    /// The lines that are read already, as deliveries; those that cannot be messages are put aside.
    fn batch(&mut self, max: usize) -> Vec<Delivery> {
        let mut batch = Vec::new();
        let Some(reader) = &mut self.open else {
            return batch;
        };
        let before: u64 = self
            .files
            .iter()
            .flatten()
            .take(self.begun - 1)
            .map(|(_, length)| length)
            .sum();
        while batch.len() < max
            && self.rejected.len() < REJECTED
            && let Some(frame) = reader.next()
        {
            self.progress.done = before + frame.end;
            let message = message(&reader.path, &frame);
            let number = self.positions.hand_out(&reader.name, frame.end, message.clone());
            match &frame.fault {
                Some(fault) => {
                    tracing::warn!(path = %reader.path, line = frame.number, %fault, "line rejected");
                    self.rejected.push((number, rejected(&self.context, &message, fault)));
                }
                None => batch.push(deliver(&self.positions, number, message)),
            }
        }
        batch
    }

    /// Keeps the lines that cannot be messages; they count as settled then.
    async fn bury(&mut self) -> Result<(), Error> {
        let letters = self.rejected.iter().map(|(_, letter)| letter.clone()).collect();
        self.context.store.dead_letters().bury(letters).await?;
        self.buried += self.rejected.len() as u64;
        self.positions
            .settled(self.rejected.drain(..).map(|(number, _)| number));
        Ok(())
    }
}

fn deliver(positions: &Arc<Positions>, number: u64, message: Message) -> Delivery {
    Delivery::new(message, Token::new(number, 0), Arc::new(LineSettler(positions.clone())))
}

fn message(path: &str, frame: &Frame) -> Message {
    Message::with_id(format_smolstr!("{path}:{}", frame.offset), frame.bytes.clone())
        .meta("file_path", path)
        .meta("file_line", frame.number.to_string())
        .meta("file_offset", frame.offset.to_string())
}

#[async_trait]
impl Source for FileSource {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.order = Order::Whole;
        capabilities.bounded = true;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(LineSettler(self.positions.clone()))
    }

    /// Looks for the files. Who is to wait for them waits in `receive`.
    async fn open(&mut self) -> Result<(), Error> {
        match (self.config.missing, self.find()) {
            (Missing::Wait, _) | (Missing::Error, Ok(_)) => Ok(()),
            (Missing::Error, Err(error)) => {
                let (code, error) = (error.code(), Error::from(error));
                let text = format!(
                    "{}: missing = \"wait\" would look again until it is there",
                    error.report()
                );
                Err(match code {
                    Some(code) => Error::permanent(text).with_code(code),
                    None => Error::permanent(text),
                })
            }
        }
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        loop {
            let again = self.positions.hand_out_again(max.max(1));
            if !again.is_empty() {
                let deliver = |(number, message)| deliver(&self.positions, number, message);
                return Ok(Received::Batch(again.into_iter().map(deliver).collect()));
            }
            let batch = self.batch(max.max(1));
            if !batch.is_empty() {
                return Ok(Received::Batch(batch));
            }
            if !self.rejected.is_empty() {
                self.bury().await?;
                continue;
            }
            if self.open.as_ref().is_some_and(Reader::ended) {
                self.open = None;
            }
            if !self.advance().await? {
                // The end is the end only when nothing can be given back any more.
                if self.positions.all_settled().await {
                    return Ok(Received::End);
                }
                continue;
            }
            if let Some(reader) = &mut self.open {
                reader.read().await?;
            }
        }
    }

    /// Looks for the files, and opens each.
    async fn probe(&mut self) -> Result<(), Error> {
        for (path, _) in self.find()? {
            let opened = tokio::fs::File::open(&path).await;
            opened.map_err(|source| FileSourceError::Read { path, source })?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.open = None;
        self.files = Some(Vec::new());
        self.positions.close().await
    }

    fn rejected(&self) -> u64 {
        self.buried
    }

    fn progress(&self) -> Option<Progress> {
        self.files.as_ref().map(|_| self.progress)
    }
}
