use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Claim, Claimed},
};
use sea_orm::DbErr;

use super::{returns::recover, take::Take};
use crate::sql::{
    SqlStore,
    conn::{Conn, Needs, Work},
};

/// Higher than any priority.
const TOP: i32 = i32::MAX;

impl SqlStore {
    /// Claims priority by priority, highest first, until enough is found.
    ///
    /// Within one priority the due items are one stretch of the index, so that neither a great backlog nor a crowd of
    /// delayed items makes a claim slower. Says, too, whether it looked for all that there is; a quick one takes what it
    /// finds first.
    pub(super) async fn claim_all(
        &self,
        queue: &str,
        claim: Claim,
        mut quick: bool,
    ) -> Result<(Vec<Claimed>, bool), Error> {
        self.node.enter(&self.database).await?;
        let mut claimed = Vec::new();
        let top = claim.below.map_or(TOP, i32::from);
        let mut below = top;
        let mut recovered = false;
        while claimed.len() < claim.max {
            let claim = Claim {
                max: claim.max - claimed.len(),
                ..claim
            };
            let queue = queue.to_owned();
            let take = Take {
                queue: queue.clone(),
                claim,
                below,
                fence: rand::random::<i64>() & i64::MAX,
                node: self.node.number(),
                quick: std::mem::take(&mut quick),
            };
            let found = match self.database.perform(take).await {
                Ok(found) => found,
                // What is leased already is given out; the error will come again if it stays.
                Err(error) if !claimed.is_empty() => {
                    tracing::debug!(%error, "claim cut short");
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            claimed.extend(found.claimed);
            if found.more {
                return Ok((claimed, false));
            }
            if found.expired && !recovered {
                // What has expired is ready now, at its old place.
                if let Err(error) = self.database.perform(Recover { queue }).await {
                    if claimed.is_empty() {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, "expired leases wait for the next claim");
                    break;
                }
                (recovered, below) = (true, top);
                continue;
            }
            match found.next {
                Some(next) => below = next,
                None => break,
            }
        }
        Ok((claimed, true))
    }
}

/// Makes ready what is under leases that have run out.
pub(super) struct Recover {
    pub(super) queue: String,
}

#[async_trait]
impl Work for Recover {
    type Answer = ();

    fn what(&self) -> String {
        format!("recover expired leases of `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        recover(conn, &self.queue).await.map(drop)
    }
}
