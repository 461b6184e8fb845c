//! E2: a source is told that it may forget a message only after the sink or the Store has it.

use std::{collections::HashMap, sync::Mutex};

use dispatch_core::{
    Capabilities, Class, Disposition, NackDelay, Received, SettleError, Settlement, Settler, Source, Token,
    pipeline::parked_queue,
    testing::{Faults, FaultySource, FaultyStore},
};
use smol_str::SmolStr;

use super::*;

/// Looks, whenever the source is told of an end, whether what it promises is already so.
#[derive(Clone)]
struct Witness {
    store: Arc<MemoryStore>,
    sink: MemorySink,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    ids: HashMap<(u64, u64), SmolStr>,
    parked: usize,
    told: HashMap<&'static str, usize>,
    early: Vec<String>,
}

impl Witness {
    async fn look(&self, settlement: &Settlement) {
        let token = (settlement.token.number, settlement.token.fence);
        let id = self.seen.lock().unwrap().ids[&token].clone();
        let (kind, kept) = match settlement.disposition {
            Disposition::Ack(_) => {
                let taken = self.sink.messages().iter().any(|message| *message.id() == id);
                ("ack", taken)
            }
            Disposition::DeadLetter(_) => {
                let buried = letters(&self.store).await.iter().any(|letter| letter.id == id);
                ("dead letter", buried)
            }
            Disposition::Parked => {
                // Nothing that is parked falls due while this watches.
                let depth = self.store.queue().depth(&parked_queue("test")).await.unwrap();
                let told = {
                    let mut seen = self.seen.lock().unwrap();
                    seen.parked += 1;
                    seen.parked
                };
                ("parked", depth.delayed >= told as u64)
            }
            Disposition::Nack { .. } | Disposition::Release | Disposition::Bury(_) => return,
        };
        let mut seen = self.seen.lock().unwrap();
        *seen.told.entry(kind).or_default() += 1;
        if !kept {
            seen.early.push(format!("{kind} of {id}"));
        }
    }
}

/// A source that is watched while it is told.
struct Watched<S>(S, Witness);

struct WatchedSettler(Arc<dyn Settler>, Witness);

#[async_trait::async_trait]
impl<S: Source> Source for Watched<S> {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(WatchedSettler(self.0.settler(), self.1.clone()))
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        let received = self.0.receive(max).await?;
        if let Received::Batch(batch) = &received {
            let mut seen = self.1.seen.lock().unwrap();
            for delivery in batch {
                let token = delivery.receipt.token();
                seen.ids
                    .insert((token.number, token.fence), delivery.message.id().clone());
            }
        }
        Ok(received)
    }
}

#[async_trait::async_trait]
impl Settler for WatchedSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        for settlement in &batch {
            self.1.look(settlement).await;
        }
        self.0.settle(batch).await
    }
    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        self.0.extend(batch, by).await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acked_before_the_sink_or_the_store_has_it() {
    for (redelivers, waits) in [(true, true), (true, false), (false, false)] {
        let row = format!("redelivers: {redelivers}, waits: {waits}");
        let store = Arc::new(MemoryStore::new());
        // Of each three messages one is taken, one is refused for ever and one must wait.
        let sink = MemorySink::slow(Duration::from_millis(20), |message| {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            match n % 3 {
                0 => Ok(()),
                1 => Err(Error::permanent("bad")),
                _ if message.attempt == 1 => no("later"),
                _ => Ok(()),
            }
        });
        let faults = Faults::default();
        for call in ["bury", "settle"] {
            faults.fail(call, 4, Class::Unavailable);
        }
        if !waits {
            faults.fail("enqueue", 4, Class::Unavailable);
        }
        let source = MemorySource::ending(numbered(60)).with(|capabilities| {
            capabilities.redelivers = redelivers;
            if !waits {
                capabilities.nack_delay = NackDelay::Unsupported;
            }
        });
        let witness = Witness {
            store: store.clone(),
            sink: sink.clone(),
            seen: Arc::default(),
        };

        let summary = Pipeline::builder("test")
            .source(Watched(FaultySource::new(source, faults.clone()), witness.clone()))
            .sink(sink.clone())
            .store(Arc::new(FaultyStore::new(store.clone(), faults.clone())))
            .concurrency(5)
            .retry(every(Duration::from_secs(3_600)))
            .stack(|stack| stack.breaker = None)
            .run()
            .await
            .unwrap();

        let buried = letters(&store).await.len();
        let seen = witness.seen.lock().unwrap();
        assert!(seen.early.is_empty(), "{row}: told too early: {:?}", seen.early);
        assert!(faults.are_spent(), "{row}");
        assert_eq!(
            (summary.delivered, summary.dead_lettered, buried),
            (40, 20, 20),
            "{row}"
        );
        assert!(seen.told["dead letter"] >= 20, "{row}: {:?}", seen.told);
        assert_eq!(seen.told.contains_key("parked"), !waits, "{row}: {:?}", seen.told);
    }
}
