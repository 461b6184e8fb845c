//! The scoreboards of one generation: one for each address, with the pipelines that name it.

use std::{collections::BTreeMap, net::SocketAddr};

use dispatch_core::pipeline::Handle;

use super::Plan;
use crate::failure::Result;

/// The scoreboards.
#[derive(Debug)]
pub(crate) struct Monitors {
    wanted: BTreeMap<SocketAddr, Vec<Handle>>,
    #[cfg(feature = "monitoring")]
    open: Vec<dispatch_monitoring::Server>,
}

impl Monitors {
    /// Those that the plan's files name.
    pub(crate) fn of(plan: &Plan) -> Self {
        let mut wanted = BTreeMap::<_, Vec<_>>::new();
        for planned in &plan.pipelines {
            if let Some(address) = planned.monitoring {
                wanted.entry(address).or_default().push(planned.pipeline.handle());
            }
        }
        Self {
            wanted,
            #[cfg(feature = "monitoring")]
            open: Vec::new(),
        }
    }

    /// Opens them.
    #[cfg(feature = "monitoring")]
    pub(crate) fn open(&mut self) -> Result<()> {
        for (address, handles) in std::mem::take(&mut self.wanted) {
            let server = dispatch_monitoring::Server::start(address, handles).map_err(|error| {
                crate::failure::Failure::run(format!(
                    "monitoring cannot listen on {address}: {error}\n  \
                     help: choose another address with [monitoring] listen = \"127.0.0.1:6970\" (dispatch sqsd: \
                     MONITORING_PORT), any free one with port 0, or none with \"off\" (MONITORING_PORT=-1)"
                ))
            })?;
            self.open.push(server);
        }
        Ok(())
    }

    #[cfg(not(feature = "monitoring"))]
    #[expect(clippy::unnecessary_wraps, reason = "as where monitoring is compiled in")]
    pub(crate) fn open(&mut self) -> Result<()> {
        self.wanted.clear();
        Ok(())
    }

    /// Closes them.
    pub(crate) async fn stop(&mut self) {
        #[cfg(feature = "monitoring")]
        for server in self.open.drain(..) {
            server.stop().await;
        }
        #[cfg(not(feature = "monitoring"))]
        std::future::ready(()).await;
    }
}
