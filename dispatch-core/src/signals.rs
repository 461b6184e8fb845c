//! The signals that ask a process to end.

/// Returns once the process is asked to end: by SIGTERM or SIGINT, or Ctrl-C where there are no signals. A system that takes no
/// handler counts as one that has asked, since it could not be stopped otherwise but by force.
///
/// ```no_run
/// # async fn run(pipeline: dispatch_core::Pipeline) -> Result<(), dispatch_core::Error> {
/// let summary = pipeline.run_until(dispatch_core::asked_to_end()).await?;
/// # drop(summary); Ok(()) }
/// ```
///
/// # Cancel safety
/// Dropping it forgets nothing but what came while nobody waited. From the first call on, the signals no longer end the process
/// by themselves.
pub async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let both = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        if let (Ok(mut terminate), Ok(mut interrupt)) = both {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
    #[cfg(not(unix))]
    drop(tokio::signal::ctrl_c().await);
}
