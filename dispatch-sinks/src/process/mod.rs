//! Hands tasks to a pool of long-lived worker processes; Unix only.
//!
//! A message is a JSON object that names a task, as dispatcherd's publishers write it:
//! `{"task": "app.tasks.resize", "uuid": "7968", "args": [3], "kwargs": {}, "timeout": 30}`. It reaches the worker byte
//! for byte, so integers of any length, `NaN` and lone surrogates do too. A worker is Python, with one of the two
//! programs that come along, or anything that speaks the protocol of `docs/workers.md`.
//!
//! | what happens | class | code |
//! |---|---|---|
//! | the task returns | success; the reply is its result as JSON | |
//! | the task raises an exception | `permanent` | `task_failed` |
//! | it is cancelled: by its `timeout`, by the command `cancel`, at the end of a drain | `permanent` | `cancelled` |
//! | its worker dies under it | `permanent`, or `retry` with `on_crash = "retry"` | `worker_lost` |
//! | the payload is no JSON object, or names no task | `permanent` | `no_task` |
//! | no worker can be started, three times in a row | `unavailable` | `start` |
//!
//! # The pool
//! There are `min` to `max` workers: as many as there are tasks. Those not needed for `scaledown_wait` are stopped, the
//! longest idle first. A worker holds two tasks, which hides the way through the pipe, and up to `prefetch` of them while
//! they are short: as many as it does within a millisecond. What waits behind a task of more than 10 ms goes to a worker
//! that is idle. A worker that dies is seen at once and replaced; the tasks that waited in it go to others.
//!
//! # Guarantees
//! A task that no worker has begun is never lost with one. What is cancelled gets SIGUSR1 (in Python: an exception that
//! it may catch), after `cancel_grace` SIGTERM, after another SIGKILL. Workers end with the sink, and when dispatch is
//! killed: their pipe closes.
//!
//! # Configuration
//! ```toml
//! [sink]
//! type = "process"
//! # shim = "standalone"                  # or "dispatcherd", the default with a worker_class
//! # python = "python3"
//! # start_method = "zygote"              # or "spawn"
//! # preload = ["app.tasks"]
//! # min = 1
//! # max = 4                              # 0, the default, is the number of CPUs
//! # prefetch = 8
//! # scaledown_wait = "15s"
//! # scaledown_interval = "15s"
//! # scaledown_reserve = 0
//! # start_wait = "60s"
//! # stop_wait = "30s"
//! # removal_wait = "30s"
//! # max_lifetime = "4h"
//! # idle_timeout = "0s"
//! # cancel_grace = "10s"
//! # on_crash = "permanent"               # or "retry"
//! # worker_class = "app.worker.AppWorker"
//! # worker_kwargs = { greeting = "hello" }
//! # settings = { version = 2 }
//! # lambda_tasks = false
//! # task_allow = ["app.*"]
//! # output = "log"                       # or "inherit"
//! ```
//! With `command = ["./worker"]` in the place of the Python keys, a worker of your own.
//!
//! From Rust:
//! ```
//! use dispatch_sinks::process::ProcessSinkConfig;
//!
//! let mut config = ProcessSinkConfig::default();
//! config.max = 4;
//! config.preload = vec!["app.tasks".into()];
//! # let _ = config;
//! ```

mod cancel;
mod config;
mod control;
mod error;
mod events;
mod files;
mod handle;
mod job;
mod launch;
mod levels;
mod life;
mod link;
mod manage;
mod metrics;
mod output;
mod pool;
mod sink;
mod wire;
mod worker;
mod zygote;

pub use cancel::Reason;
pub use config::{OnCrash, Output, ProcessSinkConfig, Shim, StartMethod, WorkerSettings};
pub use error::ProcessSinkError;
pub use handle::Exit;
pub use sink::ProcessSink;
