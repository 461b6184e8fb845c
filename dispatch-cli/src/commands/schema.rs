//! `dispatch schema`.

use dispatch_core::Registry;

use crate::{failure::Result, output::print_pretty};

pub(super) fn execute(registry: &Registry) -> Result {
    print_pretty(&dispatch_core::config::schema(registry))?;
    Ok(0)
}
