//! One hand-over of a message, settled exactly once.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    Attempt, Message,
    source::{Disposition, Settlement, Settler},
};

/// A message together with the right to settle it.
///
/// The driver settles it exactly once. Dropped unsettled (a panic, a cancel, a shutdown) it is *released*: the source
/// gives the message to somebody else.
#[derive(Debug)]
pub struct Delivery {
    /// What is to be worked on.
    pub message: Message,
    /// The failed attempts that the source remembers from earlier deliveries, oldest first.
    pub history: Vec<Attempt>,
    /// The right to settle.
    pub receipt: Receipt,
}

impl Delivery {
    /// Hands `message` over, to be settled under `token` by `settler`.
    #[must_use]
    pub fn new(message: Message, token: Token, settler: Arc<dyn Settler>) -> Self {
        Self {
            message,
            history: Vec::new(),
            receipt: Receipt {
                held: Some((token, settler)),
            },
        }
    }

    /// Adds the failed attempts of earlier deliveries.
    #[must_use]
    pub fn with_history(mut self, history: Vec<Attempt>) -> Self {
        self.history = history;
        self
    }

    /// Settles this delivery alone; for tests and small tools. The driver settles in batches.
    ///
    /// # Errors
    /// What the settler said of this one settlement.
    pub async fn settle(self, disposition: Disposition) -> Result<(), crate::SettleError> {
        let (token, settler) = self.receipt.into_parts();
        let batch = vec![Settlement { token, disposition }];
        settler.settle(batch).await.pop().unwrap_or(Ok(()))
    }
}

/// The right to settle one delivery once; dropping it releases the delivery.
pub struct Receipt {
    held: Option<(Token, Arc<dyn Settler>)>,
}

impl Receipt {
    /// What the source knows this delivery by.
    ///
    /// # Panics
    /// Never: the token leaves only with the receipt itself.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.held.as_ref().expect("held until consumed").0
    }

    /// Takes over the duty to settle.
    ///
    /// # Panics
    /// Never: the token leaves only with the receipt itself.
    #[must_use]
    pub fn into_parts(mut self) -> (Token, Arc<dyn Settler>) {
        self.held.take().expect("held until consumed")
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some((token, settler)) = self.held.take() else {
            return;
        };
        // Without a runtime there is nobody to send the release; the lease or the connection ends it then.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for result in settler
                    .settle(vec![Settlement {
                        token,
                        disposition: Disposition::Release,
                    }])
                    .await
                {
                    if let Err(error) = result {
                        tracing::debug!(%error, "release of a dropped delivery failed");
                    }
                }
            });
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt")
            .field(&self.held.as_ref().map(|(token, _)| token))
            .finish()
    }
}

/// What a source knows one delivery by: a number, a fence and a handle, each used as the source likes.
///
/// Where the source is ours the fence is the lease's own number: settling under an old one answers
/// [`SettleError::Stale`](crate::SettleError::Stale) and changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// A row, an offset, a delivery tag.
    pub number: u64,
    /// The lease or channel generation that must still hold for a settlement to count.
    pub fence: u64,
    /// A broker's receipt handle or reply subject.
    pub handle: Bytes,
}

impl Token {
    /// A token that is a number and a fence.
    #[must_use]
    pub const fn new(number: u64, fence: u64) -> Self {
        Self {
            number,
            fence,
            handle: Bytes::new(),
        }
    }

    /// A token that is a broker's handle.
    pub fn handle(handle: impl Into<Bytes>) -> Self {
        Self {
            number: 0,
            fence: 0,
            handle: handle.into(),
        }
    }
}
