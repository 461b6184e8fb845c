//! `dispatch completions` and `dispatch man`.

use clap::Args;
use clap_complete::Shell;

use crate::{
    failure::{Failure, Result},
    output::print,
};

/// Print completions for a shell
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self, mut whole: clap::Command) -> Result {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut whole, "dispatch", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

/// The manual page, in roff.
pub(super) fn man(whole: clap::Command) -> Result {
    let mut page = Vec::new();
    clap_mangen::Man::new(whole)
        .render(&mut page)
        .map_err(|error| Failure::run(format!("cannot write the page: {error}")))?;
    print(&String::from_utf8_lossy(&page))?;
    Ok(0)
}
