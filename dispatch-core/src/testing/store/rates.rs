use super::*;
use crate::store::Taken;

/// Longer than any store takes to answer, so that its answers tell pieces apart.
const PIECE: Duration = Duration::from_secs(40);
/// What the calls between two answers may take.
const SLACK: Duration = PATIENCE;

pub(super) async fn battery(store: &dyn Store) {
    pieces_of_a_rate_follow_each_other(store).await;
    of_many_at_once_each_gets_a_piece_of_its_own(store).await;
    an_idle_rate_saves_no_more_than_the_burst(store).await;
    names_of_rates_do_not_share(store).await;
}

async fn take(store: &dyn Store, name: &str, span: Duration, burst: Duration) -> Taken {
    store
        .rates()
        .take(name, span, burst)
        .await
        .expect("a working store has rates")
}

/// Whether it begins so long from now, or less by what calls take.
fn begins_in(taken: Taken, wait: Duration) -> bool {
    taken.late <= SLACK && taken.wait <= wait && taken.wait + SLACK >= wait + taken.late
}

async fn pieces_of_a_rate_follow_each_other(store: &dyn Store) {
    let name = name("rate");

    for before in 0..3 {
        let taken = take(store, &name, PIECE, Duration::ZERO).await;

        assert!(
            begins_in(taken, before * PIECE),
            "a piece begins where the last one ended: the one after {before} came with {taken:?}"
        );
    }
    let long = take(store, &name, Duration::from_micros(1), PIECE).await;
    assert!(
        begins_in(long, 3 * PIECE),
        "a burst takes nothing from what others have, yet it got {long:?}"
    );
}

async fn of_many_at_once_each_gets_a_piece_of_its_own(store: &dyn Store) {
    let name = name("rate-many");

    let calls = (0..8).map(|_| take(store, &name, PIECE, Duration::ZERO));
    let mut taken = futures::future::join_all(calls).await;

    taken.sort_by_key(|taken| taken.wait);
    for (before, taken) in (0..).zip(taken) {
        assert!(
            begins_in(taken, before * PIECE),
            "of many who take at the same time each gets a piece of its own: number {before} got {taken:?}"
        );
    }
}

async fn an_idle_rate_saves_no_more_than_the_burst(store: &dyn Store) {
    let name = name("rate-burst");

    let new = take(store, &name, SHORT, SHORT).await;
    assert!(
        is_a_burst_late(new),
        "a new rate begins a burst ago, yet it got {new:?}"
    );
    sleep(6 * SHORT).await;
    let idle = take(store, &name, SHORT, SHORT).await;

    assert!(
        is_a_burst_late(idle),
        "an idle rate begins a burst ago, and no earlier, yet it got {idle:?}"
    );
}

/// Give or take what a server does within one statement.
fn is_a_burst_late(taken: Taken) -> bool {
    taken.wait == Duration::ZERO && (SHORT..3 * SHORT).contains(&taken.late)
}

async fn names_of_rates_do_not_share(store: &dyn Store) {
    let (one, other) = (name("rate-one"), name("rate-other"));
    take(store, &one, PIECE, Duration::ZERO).await;

    let taken = take(store, &other, PIECE, Duration::ZERO).await;

    assert!(
        begins_in(taken, Duration::ZERO),
        "rates of other names are rates of their own, yet it got {taken:?}"
    );
}
