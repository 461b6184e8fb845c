//! Who claims.

use super::super::*;

pub(super) async fn battery(store: &dyn Store) {
    who_claims_is_a_node(store).await;
}

async fn who_claims_is_a_node(store: &dyn Store) {
    let queue = name("nodes");
    put(store, &queue, ["a", "b"].map(item).into()).await;

    let claimed = take(store, &queue, 1).await;

    same(claimed.len(), 1, "an item can be claimed");
    if let Some(nodes) = store.nodes().await.expect("nodes can be listed") {
        let holders = nodes.iter().filter(|node| node.alive && node.held > 0).count();
        same(
            holders > 0,
            true,
            "who has just claimed is alive, and holds what it claimed",
        );
    }
}
