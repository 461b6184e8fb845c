use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::{
    BEATS, Me, name_of_its_own, tell,
    watch::{Other, Watch},
    work::{Beat, Bury, Entered, GiveBack, Standing},
};
use crate::sql::database::Database;

/// Beats until it is aborted, and buries whom it finds dead.
pub(super) async fn beat(database: Arc<Database>, mut me: Me, entered: Entered) {
    let mut watch = Watch::new(me.period);
    watch.look(Instant::now(), entered.others);
    // What the dead had begun may be done after them: it is looked for once more.
    let mut late = entered.former;
    loop {
        sleep(me.period / BEATS).await;
        let instead = name_of_its_own(&me.host, &me.process);
        let beat = Beat {
            me: me.clone(),
            instead: instead.clone(),
        };
        let beaten = match database.perform(beat).await {
            Ok(beaten) => beaten,
            Err(error) => {
                tracing::debug!(node = me.name.as_str(), %error, "heart did not beat");
                continue;
            }
        };
        match beaten.standing {
            Standing::Well => {}
            Standing::Dead => tracing::warn!(
                node = me.name.as_str(),
                "this process was not heard of for so long that others took what it held; it goes on"
            ),
            Standing::Replaced { host, process } => {
                tracing::error!(
                    node = me.name.as_str(),
                    host,
                    process,
                    "another process started under this one's name and took what it held, so messages may be worked on \
                     twice: give each process its own `node` in [store], or leave `node` out; this one goes on as {instead}"
                );
                me.name = instead;
            }
        }
        if !late.is_empty() {
            match database.perform(GiveBack(late.clone())).await {
                Ok(back) => {
                    tell(&database, &back);
                    late.clear();
                }
                Err(error) => tracing::debug!(%error, "what the dead began late is looked for at another beat"),
            }
        }
        for dead in watch.look(Instant::now(), beaten.others) {
            if bury(&database, &dead).await {
                late.push(dead.id);
            }
        }
    }
}

/// Whether the node was really dead, and not buried by others already.
async fn bury(database: &Database, dead: &Other) -> bool {
    let bury = Bury {
        id: dead.id,
        last_seen: dead.last_seen,
    };
    match database.perform(bury).await {
        Ok(Some(back)) => {
            let messages = tell(database, &back);
            tracing::warn!(
                node = dead.name.as_str(),
                host = dead.host.as_str(),
                process = dead.process.as_str(),
                messages,
                "a node is dead: what it held is ready again"
            );
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::debug!(node = dead.name.as_str(), %error, "a dead node is buried at another beat");
            false
        }
    }
}
