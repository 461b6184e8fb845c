//! One process, as a thing to send signals to.

use std::{fmt, os::unix::process::ExitStatusExt as _, process::ExitStatus};

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

#[cfg(target_os = "linux")]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

/// So often it is looked whether an orphan has ended; there is none unless a zygote died.
const ORPHANS_LOOKED_AT: std::time::Duration = std::time::Duration::from_millis(20);

/// A process that is signalled, and never another one that has got its number since.
#[derive(Debug)]
pub(super) struct Handle {
    pid: Pid,
    #[cfg(target_os = "linux")]
    pidfd: Option<OwnedFd>,
}

impl Handle {
    /// To be made while the process cannot have been reaped, or might just have been by a parent that reports it.
    pub(super) fn new(pid: Pid) -> Self {
        Self {
            pid,
            #[cfg(target_os = "linux")]
            pidfd: rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok(),
        }
    }

    pub(super) fn of(pid: Option<u32>) -> Option<Self> {
        let pid = i32::try_from(pid?).ok().and_then(Pid::from_raw)?;
        Some(Self::new(pid))
    }

    pub(super) const fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; to a process that is gone, nothing.
    pub(super) fn signal(&self, signal: Signal) {
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            rustix::process::pidfd_send_signal(pidfd, signal).ok();
            return;
        }
        rustix::process::kill_process(self.pid, signal).ok();
    }

    /// Whether it has ended; for those that nobody reports on.
    fn is_over(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            let mut asked = [PollFd::new(pidfd, PollFlags::IN)];
            return poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        }
        rustix::process::test_kill_process(self.pid).is_err()
    }

    /// Waits until a process has ended that is not our child, and whose parent has died.
    pub(super) async fn orphaned(&self) -> Exit {
        while !self.is_over() {
            tokio::time::sleep(ORPHANS_LOOKED_AT).await;
        }
        Exit::Unknown
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Its parent died before it, so that nobody can say.
    Unknown,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl From<i32> for Exit {
    /// As the zygote writes it: a signal is negative.
    fn from(status: i32) -> Self {
        if status < 0 {
            Self::Signal(-status)
        } else {
            Self::Code(status)
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => match name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::Unknown => f.write_str("ended"),
        }
    }
}

fn name(signal: i32) -> Option<&'static str> {
    [
        (Signal::KILL, "SIGKILL: out of memory?"),
        (Signal::TERM, "SIGTERM"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
    ]
    .into_iter()
    .find(|(known, _)| known.as_raw() == signal)
    .map(|(_, name)| name)
}
