//! What `dispatch run` is made of: the plan that files make, the generation that runs it, and all that watches.

mod at_work;
mod generation;
mod live;
mod monitors;
mod plan;
mod process;
mod signals;
mod summary;
mod systemd;
mod watch;

pub(crate) use at_work::at_work;
pub(crate) use generation::{Board, Ended, Generation, Member};
pub(crate) use live::{Live, TICK};
pub(crate) use monitors::Monitors;
pub(crate) use plan::{Plan, Stores};
pub(crate) use process::{End, Process};
pub(crate) use signals::{Signals, Wish};
pub(crate) use summary::{plural, report};
pub(crate) use systemd::Systemd;
pub(crate) use watch::Watch;
