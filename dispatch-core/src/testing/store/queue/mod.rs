//! The statements about the queue.

mod counts;
mod duplicates;
mod leases;
mod letters;
mod nodes;
mod order;
mod returns;
mod waiting;
mod wakes;
mod withdraw;

use super::Store;

pub(super) async fn battery(store: &dyn Store) {
    leases::battery(store).await;
    letters::battery(store).await;
    nodes::battery(store).await;
    order::battery(store).await;
    duplicates::battery(store).await;
    returns::battery(store).await;
    counts::battery(store).await;
    wakes::battery(store).await;
    waiting::battery(store).await;
    withdraw::battery(store).await;
}
