use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Delivery, Error, Received, Settler, Source, Store, Token,
    config::{BuildContext, ConfigError},
    store::QueueSource,
};
use smol_str::format_smolstr;

use super::{HttpSourceConfig, Mode, intake::Intake, server::Server, settler::WaitingSettler, waiting::Waiting};

/// Takes messages from HTTP requests. The module's page says how.
#[derive(Debug)]
pub struct HttpSource {
    intake: Arc<Intake>,
    /// What `async` requests left in the Store.
    stored: QueueSource,
    server: Option<Server>,
}

impl HttpSource {
    /// Checks `config` and makes the source; listens nowhere yet.
    ///
    /// # Errors
    /// Names the field that is wrong: an open address without a token, a path that is none, a header's name.
    pub fn new(config: &HttpSourceConfig, context: &BuildContext) -> Result<Self, ConfigError> {
        config.check()?;
        let queue = format_smolstr!("http:{}:{}", context.pipeline, context.component);
        let stored = QueueSource::new(context.store.clone(), queue.as_str());
        let intake = Intake {
            waiting: Waiting::new(config.max_waiting),
            config: config.clone(),
            store: context.store.clone(),
            queue,
        };
        Ok(Self {
            intake: Arc::new(intake),
            stored,
            server: None,
        })
    }

    /// Where it listens, once it does; says which port was given for port 0.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    async fn listen(&mut self) -> Result<(), Error> {
        if self.server.is_none() {
            self.server = Some(Server::start(self.intake.clone()).await?);
        }
        Ok(())
    }

    fn mode(&self) -> Mode {
        self.intake.config.mode
    }
}

#[async_trait]
impl Source for HttpSource {
    fn capabilities(&self) -> Capabilities {
        if self.mode() == Mode::Async {
            return self.stored.capabilities();
        }
        // A nack goes back to the caller, who may send again after as long as it is told.
        let mut capabilities = Capabilities::default();
        capabilities.wants_reply = true;
        capabilities
    }

    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        self.mode() == Mode::Async && self.stored.keeps_letters_in(store)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        match self.mode() {
            Mode::Async => self.stored.settler(),
            Mode::Sync => Arc::new(WaitingSettler(self.intake.clone())),
        }
    }

    fn hold_at_most(&mut self, most: usize) {
        self.stored.hold_at_most(most);
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.listen().await?;
        match self.mode() {
            Mode::Async => self.stored.receive(max).await,
            Mode::Sync => {
                let settler = self.settler();
                let requests = self.intake.waiting.take(max.max(1)).await;
                let deliver = |(number, message)| Delivery::new(message, Token::new(number, 0), settler.clone());
                Ok(Received::Batch(requests.into_iter().map(deliver).collect()))
            }
        }
    }

    /// In `async` mode requests are taken on, for they need only the Store; in `sync` mode they are answered 503.
    async fn hold(&mut self) -> Result<(), Error> {
        match self.mode() {
            Mode::Async => self.stored.hold().await,
            Mode::Sync => {
                self.intake.waiting.hold().await;
                Ok(())
            }
        }
    }

    /// Listens, and asks the Store.
    async fn probe(&mut self) -> Result<(), Error> {
        self.listen().await?;
        self.intake.store.probe().await
    }

    async fn close(&mut self) -> Result<(), Error> {
        match self.mode() {
            Mode::Async => self.stored.close().await?,
            Mode::Sync => self.hold().await?,
        }
        if let Some(server) = self.server.take() {
            // Requests of `sync` mode end when their messages are settled, which is after this.
            server.stop(self.mode() == Mode::Async).await;
        }
        Ok(())
    }
}
