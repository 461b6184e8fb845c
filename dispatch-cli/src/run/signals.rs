//! What people and supervisors ask for by signals.

use std::io;

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGTERM or SIGINT: drain; the second time, end at once with 128 plus this number.
    Stop(i32),
    /// SIGQUIT: end at once with 128 plus this number.
    Quit(i32),
    /// SIGHUP: read the files again.
    Reload,
    /// SIGUSR1 or SIGTSTP: receive nothing, go on with what is started.
    Pause,
    /// SIGUSR2 or SIGTTIN: print the status.
    Dump,
}

/// Signals as they come.
#[derive(Debug)]
pub(crate) struct Signals(UnboundedReceiver<Wish>);

impl Signals {
    /// Takes over every signal that means something here.
    pub(crate) fn listen() -> io::Result<Self> {
        let (wishes, received) = unbounded_channel();
        for (number, wish) in [
            (Signal::TERM, Wish::Stop(Signal::TERM.as_raw())),
            (Signal::INT, Wish::Stop(Signal::INT.as_raw())),
            (Signal::QUIT, Wish::Quit(Signal::QUIT.as_raw())),
            (Signal::HUP, Wish::Reload),
            (Signal::USR1, Wish::Pause),
            (Signal::TSTP, Wish::Pause),
            (Signal::USR2, Wish::Dump),
            (Signal::TTIN, Wish::Dump),
        ] {
            let mut signal = signal(SignalKind::from_raw(number.as_raw()))?;
            let wishes = wishes.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    if wishes.send(wish).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(received))
    }

    /// The next wish.
    ///
    /// # Cancel safety
    /// Dropping it loses none.
    pub(crate) async fn next(&mut self) -> Wish {
        match self.0.recv().await {
            Some(wish) => wish,
            // The senders live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
