use std::sync::Arc;

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Commands, Error, MemoryStore, Received, Settler, Source,
    config::{BuildContext, ConfigError},
    telemetry::Meter,
};
use tokio::{sync::watch, task::JoinSet};

use super::{Overflow, PgNotifySourceConfig, listener, parts, producers, service::Service, socket};

/// Listens to channels and hands out the tasks that come; see the [module](super).
pub struct PgNotifySource {
    service: Arc<Service>,
    /// What the parts say of themselves.
    health: watch::Receiver<Option<Result<(), String>>>,
    /// The listener, the socket and the producers, once they run.
    running: JoinSet<()>,
}

impl std::fmt::Debug for PgNotifySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgNotifySource")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl PgNotifySource {
    /// Checks `config` and makes the source. Connects at the first use. It has no store: what finds no room is shed.
    ///
    /// # Errors
    /// Names the field that is wrong and what is allowed.
    pub fn open(mut config: PgNotifySourceConfig) -> Result<Self, ConfigError> {
        config.overflow = Overflow::Shed;
        let context = BuildContext {
            pipeline: "pg_notify".into(),
            component: "source".into(),
            store: Arc::new(MemoryStore::new()),
            base_dir: ".".into(),
            concurrency: 64,
            meter: Meter::default(),
            commands: Commands::default(),
        };
        config.service(&context).map(Self::new)
    }

    /// Where it asks for what it does not know itself: what is at work, and by whom. Whoever answers there (the sink `tasks`
    /// of a program, say) is asked by the control clients of this source.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.service.commands
    }

    pub(super) fn new(service: Service) -> Self {
        Self {
            health: service.parts.health(),
            service: Arc::new(service),
            running: JoinSet::new(),
        }
    }

    fn start(&mut self) {
        Service::answer_commands(&self.service);
        if let Some(server) = self.service.server.clone() {
            self.running.spawn(listener::run(Arc::clone(&self.service), server));
        }
        let service = Arc::clone(&self.service);
        self.running.spawn(async move { service.take_back().await });
        producers::start(&self.service, &mut self.running);
        if let Some(path) = self.service.config.control.socket.clone() {
            let service = Arc::clone(&self.service);
            let serve = move || socket::serve(Arc::clone(&service), path.clone());
            self.running
                .spawn(parts::keep(Arc::clone(&self.service), socket::NAME.to_owned(), serve));
        }
    }
}

#[async_trait]
impl Source for PgNotifySource {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        // Whoever waits, waits in the hall, where it can still be cancelled.
        capabilities.prefetch = 0;
        // The socket, schedules and tasks of the start need no server.
        capabilities.connects_itself = true;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.service.hall.settler()
    }

    async fn probe(&mut self) -> Result<(), Error> {
        if let (true, Some(server)) = (self.running.is_empty(), &self.service.server) {
            let _connected_and_dropped = server.connect().await?;
        }
        Ok(())
    }

    /// # Cancel safety
    /// The listener runs in a task of its own, and what it hears waits in the hall.
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if self.running.is_empty() {
            self.start();
        }
        tokio::select! {
            batch = self.service.hall.next(max) => Ok(Received::Batch(batch)),
            changed = self.health.changed() => {
                changed.map_err(Error::permanent)?;
                let health = self.health.borrow_and_update().clone();
                Ok(Received::Health(health.and_then(Result::err).map(Error::unavailable)))
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.running.shutdown().await;
        self.service.hall.close().await;
        Ok(())
    }
}
