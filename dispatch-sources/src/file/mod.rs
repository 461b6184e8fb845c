//! Pulls lines from files, in order, until they end.
//!
//! Each line is a message: its id is the file's path and the line's offset, so it is the same in every run; its
//! metadata are `file_path`, `file_line` (from 1) and `file_offset` (in bytes). A line that cannot be a message —
//! longer than `max_line`, or no JSON where `format` asks for it — never reaches the sink: it is kept as a dead letter
//! with the reason `rejected`, cut to `max_line`. Bytes that are not UTF-8 pass as they are.
//!
//! # Guarantees
//! The Store keeps, for each file, up to where *every* line is settled; it is saved 200 ms after a line was settled,
//! at the latest, and when the source closes. A run that was stopped goes on from there: what had been settled beyond
//! it, or within those 200 ms before a crash, comes again; nothing is left out. A run over finished files finds only
//! what was appended since; `from = "start"` works them off anew. A file that became shorter, or begins otherwise
//! than it did, is a new file.
//!
//! # Capabilities
//! Bounded, in order; no lease. A line that is given back comes again in the same run; one that failed is parked in the
//! Store. The end is told once all lines are settled.
//!
//! # Configuration
//! ```toml
//! [source]
//! type = "file"
//! paths = ["in/*.ndjson", "more.ndjson"]   # in this order; those of one pattern by name
//! format = "ndjson"                        # or "lines" (default)
//! # max_line = "1MiB"
//! # from = "saved"                         # or "start"
//! # missing = "error"                      # or "wait": for a file that is not there yet
//! ```
//!
//! Begin Rust:
//! ```
//! use dispatch_sources::file::{FileSourceConfig, Begin};
//!
//! let mut config = FileSourceConfig::new(["in/*.ndjson"]);
//! config.from = Begin::Start;
//! ```

mod config;
mod error;
mod fingerprint;
mod positions;
mod reader;
mod source;

pub use crate::lines::Format;
pub use config::{Begin, FileSourceConfig, Missing};
pub use error::FileSourceError;
pub use source::FileSource;
