//! A process group that never outlives its owner.

use std::io;

use tokio::process::{Child, Command};

/// A child that leads a group of its own. Dropping it kills the group; the runtime then reaps the child.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    group: Group,
}

impl Process {
    /// Starts `command`.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command.kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        let group = Group(child.id());
        Ok(Self { child, group })
    }

    /// Kills what its process left behind.
    pub(super) fn kill_rest(&mut self) {
        self.group.kill();
    }
}

/// The number of a process group that is ours to end, until it has been ended.
#[derive(Debug)]
struct Group(Option<u32>);

impl Group {
    #[cfg(unix)]
    fn kill(&mut self) {
        let number = self.0.take().and_then(|number| i32::try_from(number).ok());
        if let Some(group) = number.and_then(rustix::process::Pid::from_raw) {
            // An error means that nobody is left in it.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }

    #[cfg(not(unix))]
    fn kill(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
