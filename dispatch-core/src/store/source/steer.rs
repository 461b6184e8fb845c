//! Commands about what waits in a queue: for a worker, for its time, for its like.

use std::{
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{Sender, channel},
    time::{Instant, timeout, timeout_at},
};

use super::{
    landed::{Landed, Pick},
    settler::QueueSettler,
};
use crate::{
    Commands, Delivery, Disposition, Error, Message, Reply, Settlement, Settler,
    store::{Look, Place, Store, Waiting},
    tasks::{Filter, Listed, Shown, Space},
    telemetry::{Counter, Meter},
};

/// How long an answer may take: who asks has a second, and others are asked, too.
const PATIENCE: Duration = Duration::from_millis(500);
/// So long what goes back into the store is waited for.
const LONGEST_WAY: Duration = Duration::from_secs(30);
/// So many items are looked at at once.
const PAGE: usize = 1_000;

/// What commands need of a source.
pub(super) struct Steered {
    pub(super) store: Arc<dyn Store>,
    pub(super) queue: Arc<str>,
    pub(super) ordered: bool,
    pub(super) landed: Arc<Landed>,
    /// Messages handed out for the first time.
    pub(super) received: Arc<AtomicU64>,
    pub(super) withdrawn: Counter,
}

/// What a waiting task waits for.
#[derive(Clone, Copy)]
enum Why {
    Turn,
    Like,
    Time,
}

type Found = Result<(Why, String), Error>;

/// Which messages a command is about.
struct Wanted(String);

impl Wanted {
    /// The message as it is shown, if it is one of them.
    fn show(&self, payload: &[u8], id: &str, queue: &str) -> Option<String> {
        let shown = Shown::of(payload, id, Some(queue));
        let picked = Filter::read(&self.0).picks(&shown.task, &shown.uuid, || shown.text.as_str().into());
        picked.then_some(shown.text)
    }

    fn pick(self: &Arc<Self>, queue: &Arc<str>) -> Pick {
        let (wanted, queue) = (Arc::clone(self), Arc::clone(queue));
        Arc::new(move |message: &Message| wanted.show(&message.payload, message.id(), &queue).is_some())
    }

    fn look(&self) -> Look {
        let filter = Filter::read(&self.0);
        Look {
            after: None,
            max: PAGE,
            holding: filter
                .texts()
                .map(|text| Bytes::copy_from_slice(text.as_bytes()))
                .collect(),
        }
    }
}

impl Steered {
    /// Answers commands for as long as `self` lives.
    pub(super) fn answer(self: &Arc<Self>, commands: &Commands, counts: bool) {
        let source = Arc::downgrade(self);
        commands.on("waiting", move |data| see(source.clone(), data));
        let source = Arc::downgrade(self);
        commands.on("withdraw", move |data| withdraw(source.clone(), data));
        if counts {
            let source = Arc::downgrade(self);
            commands.on("received", move |_| {
                let received = source.upgrade().map_or(0, |source| source.received.load(Relaxed));
                async move { received.to_string() }
            });
        }
    }

    fn why(&self, waiting: &Waiting) -> Why {
        match waiting {
            waiting if !waiting.due => Why::Time,
            waiting if waiting.behind && self.ordered => Why::Like,
            _ => Why::Turn,
        }
    }

    /// Tells of everything that waits, until nobody listens.
    async fn tell(&self, wanted: &Arc<Wanted>, found: &Sender<Found>) -> Result<(), Error> {
        let landed = self.landed.see(&wanted.pick(&self.queue));
        for message in landed {
            if let Some(text) = wanted.show(&message.payload, message.id(), &self.queue)
                && found.send(Ok((Why::Turn, text))).await.is_err()
            {
                return Ok(());
            }
        }
        let mut look = wanted.look();
        loop {
            let page = self.store.queue().waiting(&self.queue, look.clone()).await?;
            for waiting in &page.items {
                if let Some(text) = wanted.show(&waiting.item.payload, &waiting.item.id, &self.queue)
                    && found.send(Ok((self.why(waiting), text))).await.is_err()
                {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => look.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Takes everything out that waits, whether somebody listens or not. Says how many there were.
    async fn take_out(&self, wanted: &Arc<Wanted>, found: &Sender<Found>) -> Result<u64, Error> {
        let mut count = 0;
        let mut look = wanted.look();
        loop {
            let page = self.store.queue().waiting(&self.queue, look.clone()).await?;
            let chosen: Vec<_> = page
                .items
                .iter()
                .filter_map(|waiting| {
                    let text = wanted.show(&waiting.item.payload, &waiting.item.id, &self.queue)?;
                    Some((waiting.place, self.why(waiting), text))
                })
                .collect();
            let places: Vec<Place> = chosen.iter().map(|(place, ..)| *place).collect();
            let gone = self.store.queue().withdraw(&self.queue, &places).await?;
            self.withdrawn.add(gone.len() as u64);
            count += gone.len() as u64;
            let gone: HashSet<u64> = gone.into_iter().collect();
            for (_, why, text) in chosen.into_iter().filter(|(place, ..)| gone.contains(&place.row)) {
                // Who asked has an answer by now; the rest goes all the same.
                let _nobody_listens = found.try_reserve().map(|room| room.send(Ok((why, text))));
            }
            match page.next {
                Some(next) => look.after = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// Ends what was claimed and is withdrawn. Says how many there were.
    pub(super) async fn end(&self, deliveries: Vec<Delivery>) -> Vec<Message> {
        let settler = QueueSettler {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue),
        };
        let (batch, messages): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .map(|delivery| {
                let settlement = Settlement {
                    token: delivery.receipt.into_parts().0,
                    disposition: Disposition::Ack(Reply::default()),
                };
                (settlement, delivery.message)
            })
            .unzip();
        let ended = settler.settle(batch).await;
        let gone: Vec<_> = messages
            .into_iter()
            .zip(ended)
            .filter_map(|(message, ended)| match ended {
                Ok(()) => Some(message),
                Err(error) => {
                    tracing::warn!(id = %message.id(), %error, "a task that was cancelled comes again");
                    None
                }
            })
            .collect();
        self.withdrawn.add(gone.len() as u64);
        gone
    }
}

/// Collects what is found until all is told or the time is up.
async fn collect(queue: &str, mut found: tokio::sync::mpsc::Receiver<Found>, until: Instant) -> String {
    let (mut listed, mut space) = (Listed::default(), Space::default());
    let short = |count: usize| {
        Some(format!(
            "only {count} of the tasks that wait in the queue `{queue}` are shown"
        ))
    };
    loop {
        match timeout_at(until, found.recv()).await {
            Ok(Some(Ok((why, text)))) => {
                space.take(&text);
                let place = match why {
                    Why::Turn => &mut listed.queued,
                    Why::Like => &mut listed.blocked,
                    Why::Time => &mut listed.delayed,
                };
                place.push(text);
                if space.is_full() {
                    listed.error = short(space.tasks());
                    break;
                }
            }
            Ok(Some(Err(error))) => {
                listed.error = Some(format!("the queue `{queue}` does not answer: {}", error.report()));
                break;
            }
            Ok(None) => break,
            Err(_) => {
                listed.error = short(space.tasks());
                break;
            }
        }
    }
    listed.text()
}

async fn see(source: Weak<Steered>, data: String) -> String {
    let until = Instant::now() + PATIENCE;
    let Some(source) = source.upgrade() else {
        return Listed::default().text();
    };
    let queue = Arc::clone(&source.queue);
    let (sender, found) = channel(PAGE);
    tokio::spawn(async move {
        if let Err(error) = source.tell(&Arc::new(Wanted(data)), &sender).await {
            let _nobody_listens = sender.send(Err(error)).await;
        }
    });
    collect(&queue, found, until).await
}

/// Goes on behind the answer until all is done.
async fn withdraw(source: Weak<Steered>, data: String) -> String {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + PATIENCE;
    let Some(source) = source.upgrade() else {
        return Listed::default().text();
    };
    let queue = Arc::clone(&source.queue);
    // Room for all that an answer may show: nothing waits for who listens.
    let (sender, found) = channel(Space::TASKS);
    tokio::spawn(async move {
        let (number, wanted) = (NUMBERS.fetch_add(1, Relaxed), Arc::new(Wanted(data)));
        let landed = source.landed.withdraw(number, wanted.pick(&source.queue));
        let ended = source.end(landed).await;
        // What goes back right now is seen nowhere; one that does not arrive is ready when its lease has run out.
        let _late = timeout(LONGEST_WAY, source.landed.all_back()).await;
        let taken = source.take_out(&wanted, &sender).await;
        source.landed.withdrawn(number);
        let count = ended.len() as u64 + taken.as_ref().map_or(0, |count| *count);
        for message in ended {
            if let Some(text) = wanted.show(&message.payload, message.id(), &source.queue) {
                let _nobody_listens = sender.try_send(Ok((Why::Turn, text)));
            }
        }
        if count > 0 {
            tracing::info!(queue = %source.queue, tasks = count, "waiting tasks cancelled");
        }
        if let Err(error) = taken {
            tracing::error!(queue = %source.queue, error = error.report(), "not all waiting tasks were cancelled");
            let _nobody_listens = sender.try_send(Err(error));
        }
    });
    collect(&queue, found, until).await
}

impl Steered {
    pub(super) fn new(
        store: Arc<dyn Store>,
        queue: Arc<str>,
        ordered: bool,
        landed: Arc<Landed>,
        meter: &Meter,
    ) -> Self {
        Self {
            store,
            queue,
            ordered,
            landed,
            received: Arc::default(),
            withdrawn: meter.counter(
                "dispatch_queue_withdrawn_total",
                "waiting messages that a command has cancelled",
            ),
        }
    }
}
