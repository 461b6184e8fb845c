//! One file, read line by line from where the last run came to.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::Arc,
};

use dispatch_core::{Error, Store};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};

use super::{Begin, FileSourceConfig, FileSourceError, fingerprint::Fingerprint};
use crate::framing::{Frame, Framer};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A file that is open.
#[derive(Debug)]
pub(super) struct Reader {
    /// As configured, for people.
    pub(super) path: Arc<str>,
    /// The position's name.
    pub(super) name: Arc<str>,
    file: File,
    framer: Framer,
    ended: bool,
}

impl Reader {
    /// Opens `path` and goes to where reading begins. `prefix` begins the position's name.
    pub(super) async fn open(
        path: &Path,
        prefix: &str,
        config: &FileSourceConfig,
        store: &dyn Store,
    ) -> Result<Self, Error> {
        let failed = |source| FileSourceError::Read {
            path: path.to_owned(),
            source,
        };
        // Another way to write the same path is the same file.
        let whole = tokio::fs::canonicalize(path).await.map_err(failed)?;
        let name: Arc<str> = format!("{prefix}{}", whole.display()).into();
        let mut file = File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        let start = Fingerprint::of(&mut file).await.map_err(failed)?;
        let replaced = start.take_over(&name, store).await?;
        let saved = match config.from {
            Begin::Start => None,
            Begin::Saved if replaced => {
                tracing::warn!(path = %path.display(), "file is another than it was and is read from the start");
                None
            }
            Begin::Saved => store.positions().load(&name).await?,
        };
        let offset = match saved {
            Some(saved) if saved > length => {
                tracing::warn!(path = %path.display(), saved, length, "file is shorter than it was and is read from the start");
                // Else it would count again once the file has grown, if this run settled nothing.
                store.positions().save(&name, None).await?;
                0
            }
            saved => saved.unwrap_or_default(),
        };
        let offset = offset + belated_end(&mut file, offset).await.map_err(failed)?;
        file.rewind().await.map_err(failed)?;
        let lines = count_lines(&mut file, offset).await.map_err(failed)?;
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        Ok(Self {
            path: path.to_string_lossy().into(),
            name,
            file,
            framer: Framer::new(config.format.is_json(), config.max_line.as_usize(), lines, offset),
            ended: false,
        })
    }

    /// The next line that is already read.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let next = self.framer.next();
        next.or_else(|| self.ended.then(|| self.framer.finish()).flatten())
    }

    /// Reads more; says whether there was any.
    ///
    /// # Cancel safety
    /// What was read stays with the file or in the framer.
    pub(super) async fn read(&mut self) -> Result<bool, FileSourceError> {
        let buffer = self.framer.buffer();
        buffer.reserve(CHUNK);
        let read = self
            .file
            .read_buf(buffer)
            .await
            .map_err(|source| FileSourceError::Read {
                path: PathBuf::from(&*self.path),
                source,
            })?;
        self.ended |= read == 0;
        Ok(read > 0)
    }

    /// Whether the end was reached.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }
}

/// How many bytes at `offset` only end a line that was handed out when the file stopped within it: they were written
/// since, and are no empty line.
async fn belated_end(file: &mut File, offset: u64) -> std::io::Result<u64> {
    let Some(before) = offset.checked_sub(1) else {
        return Ok(0);
    };
    file.seek(SeekFrom::Start(before)).await?;
    let mut around = Vec::with_capacity(3);
    file.take(3).read_to_end(&mut around).await?;
    Ok(match around[..] {
        [b'\n', ..] => 0,
        [_, b'\n', ..] => 1,
        [_, b'\r', b'\n'] => 2,
        _ => 0,
    })
}

/// How many lines end before `offset`, so that the rest are numbered as people count them.
async fn count_lines(file: &mut File, offset: u64) -> std::io::Result<u64> {
    let mut before = file.take(offset);
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut lines = 0;
    while before.read_buf(&mut buffer).await? > 0 {
        lines += memchr::memchr_iter(b'\n', &buffer).count() as u64;
        buffer.clear();
    }
    Ok(lines)
}
