use std::io;

use dispatch_core::{Class, Classify};
use smol_str::SmolStr;

use super::{cancel::Reason, process::Exit};

/// Why a worker did not do a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessSinkError {
    /// The message is no task.
    #[error("the message is no task: {0}")]
    NoTask(String),
    /// The task raised an exception. Its traceback is in the log, at debug.
    #[error("task {task} failed: {kind}: {message}")]
    Failed {
        /// The task's name.
        task: SmolStr,
        /// The exception's class.
        kind: String,
        /// What it says.
        message: String,
    },
    /// The task was cancelled, and ended or was ended.
    #[error("task {task} was cancelled: {reason}")]
    Cancelled {
        /// The task's name.
        task: SmolStr,
        /// By whom.
        reason: Reason,
    },
    /// Its worker died while it may have been at work.
    #[error("worker {worker} {exit} while task {task} was at work{output}")]
    WorkerLost {
        /// The task's name.
        task: SmolStr,
        /// The worker's id.
        worker: u64,
        /// How it died.
        exit: Exit,
        /// The last lines it wrote, after a colon.
        output: String,
        /// What that means, by `on_crash`.
        class: Class,
    },
    /// No worker can be started, time after time.
    #[error("no worker can be started: {0}")]
    NoWorkers(String),
    /// The sink has been closed.
    #[error("the pool of workers is closed")]
    Closed,
}

impl Classify for ProcessSinkError {
    fn class(&self) -> Class {
        match self {
            Self::NoTask(_) | Self::Failed { .. } | Self::Cancelled { .. } => Class::Permanent,
            Self::WorkerLost { class, .. } => *class,
            Self::NoWorkers(_) | Self::Closed => Class::Unavailable,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(SmolStr::new_static(match self {
            Self::NoTask(_) => "no_task",
            Self::Failed { .. } => "task_failed",
            Self::Cancelled { .. } => "cancelled",
            Self::WorkerLost { .. } => "worker_lost",
            Self::NoWorkers(_) => "start",
            Self::Closed => "closed",
        }))
    }
}

/// Why one worker did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("{program} cannot be started{}: {source}", if source.kind() == io::ErrorKind::NotFound { " (is it installed, and in PATH?)" } else { "" })]
    Program { program: String, source: io::Error },
    #[error("its pipes cannot be made: {0}")]
    Pipes(#[source] io::Error),
    #[error("the workers' files cannot be written: {0}")]
    Files(#[source] io::Error),
    #[error("the zygote refused: {0}")]
    Refused(String),
    #[error("the zygote ended{0}")]
    ZygoteGone(String),
    #[error("it {exit} before it was ready{output}")]
    Exited { exit: Exit, output: String },
}
