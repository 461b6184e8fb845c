//! Entries and requests that SQS refuses for good.

use dispatch_core::{Class, Disposition, Reply, SettleError, Settlement, Source as _, telemetry::Meter, testing::Logs};
use dispatch_sources::sqs::fake::Fault;

use super::*;

fn refused(which: &[usize], code: &str) -> Fault {
    Fault::Entries {
        which: which.to_vec(),
        code: code.to_owned(),
        sender_fault: true,
    }
}

#[tokio::test]
async fn deletes_that_fail_by_the_senders_fault_are_told_once_and_counted() {
    for (code, stale) in [
        ("ReceiptHandleIsInvalid", true),
        ("InvalidIdFormat", true),
        ("SomethingNew", false),
    ] {
        let fake = fake();
        let server = fake.serve().await;
        (0..10).for_each(|n| drop(fake.send("q", n.to_string())));
        let meter = Meter::default().of("source");
        let mut config = config(&fake, "q");
        config.endpoint_url = Some(server.url());
        let mut source = SqsSource::metered(config, &meter).unwrap();
        let deliveries = crate::receive(&mut source, 10).await;
        fake.fail("DeleteMessageBatch", 1, refused(&[0, 7], code));
        let settlement = |delivery: dispatch_core::Delivery| Settlement {
            token: delivery.receipt.into_parts().0,
            disposition: Disposition::Ack(Reply::default()),
        };

        let answers = source
            .settler()
            .settle(deliveries.into_iter().map(settlement).collect())
            .await;

        for (index, answer) in answers.iter().enumerate() {
            match answer {
                Err(SettleError::Stale) => assert!(stale && [0, 7].contains(&index), "{code} {index}"),
                Err(SettleError::Failed(error)) => {
                    assert!(!stale && [0, 7].contains(&index), "{code} {index}");
                    assert_eq!(error.class(), Class::Permanent, "to tell it again is of no use");
                    assert!(error.to_string().contains(code), "{error}");
                }
                Err(other) => panic!("{code} {index}: {other}"),
                Ok(()) => assert!(![0, 7].contains(&index), "{code} {index}"),
            }
        }
        assert_eq!(
            (fake.deleted("q"), fake.requests("DeleteMessageBatch")),
            (8, 1),
            "{code}"
        );
        assert_eq!(
            (
                read(&meter, "dispatch_sqs_delete_rejected_total"),
                read(&meter, "dispatch_sqs_delete_retried_total"),
                read(&meter, "dispatch_sqs_deleted_total"),
            ),
            (2, 0, 8),
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_delete_is_refused_for_good_is_let_go_and_comes_again() {
    let fake = fake();
    fake.send("q", "x");
    fake.fail("DeleteMessageBatch", 1, refused(&[0], "SomethingNew"));
    let sink = MemorySink::new();
    let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("it came again and was deleted", || fake.deleted("q") == 1).await;

    assert_eq!(sink.calls().values().sum::<u32>(), 2);
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_delete_under_a_lost_lease_is_not_made_and_counted_as_abandoned() {
    let fake = fake();
    let server = fake.serve().await;
    let id = fake.send("q", "x");
    let meter = Meter::default().of("source");
    let mut config = config(&fake, "q");
    config.endpoint_url = Some(server.url());
    let mut source = SqsSource::metered(config, &meter).unwrap();
    let first = crate::receive(&mut source, 1).await.remove(0);
    fake.expire("q", &id);
    let second = crate::receive(&mut source, 1).await.remove(0);
    let token = first.receipt.token().clone();
    let lost = source.settler().extend(vec![token], Duration::from_secs(30)).await;
    assert!(matches!(lost[..], [Err(SettleError::Stale)]), "{lost:?}");

    drop(first.settle(Disposition::Ack(Reply::default())).await);

    assert_eq!(read(&meter, "dispatch_sqs_delete_abandoned_total"), 1);
    assert_eq!(fake.requests("DeleteMessageBatch"), 0);
    crate::ack(second).await;
}

#[tokio::test(start_paused = true)]
async fn what_sqs_refuses_for_now_is_told_once_a_minute_and_asked_on() {
    for code in [
        "InvalidAddress",
        "UnsupportedOperation",
        "InvalidAttributeName",
        "InvalidAttributeValue",
        "KMS.DisabledException",
        "KMS.NotFoundException",
        "KMS.InvalidStateException",
        "KMS.OptInRequired",
        "KMS.AccessDeniedException",
    ] {
        let (logs, _guard) = Logs::gather();
        let fake = fake();
        let sink = MemorySink::new();
        let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());
        fake.send("q", "before");
        sink.took(1).await;

        fake.fail("*", 100_000, Fault::error(code));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let (told, asked) = (logs.count("ERROR", code), fake.requests("ReceiveMessage"));
        assert!((5..=12).contains(&told), "{code}: told {told} times in ten minutes");
        assert!(
            asked >= 5 || fake.requests("GetQueueAttributes") >= 5,
            "{code}: asked on"
        );

        fake.pardon();
        fake.send("q", "after");
        sink.took(2).await;
        handle.drain();
        run.await.unwrap().unwrap();
    }
}

/// A developer is to see it at once; whoever runs the binary finds it counted.
#[tokio::test]
async fn a_request_of_our_own_that_is_wrong_is_counted_and_a_panic_where_we_build() {
    let fake = fake();
    let server = fake.serve().await;
    fake.send("q", "x");
    let meter = Meter::default().of("source");
    let mut config = config(&fake, "q");
    config.endpoint_url = Some(server.url());
    let mut source = SqsSource::metered(config, &meter).unwrap();
    let delivery = crate::receive(&mut source, 1).await.remove(0);
    fake.fail("DeleteMessageBatch", 1, Fault::error("EmptyBatchRequest"));

    let settled = tokio::spawn(async move { delivery.settle(Disposition::Ack(Reply::default())).await }).await;

    match settled {
        Err(ended) => assert!(cfg!(debug_assertions) && ended.is_panic(), "{ended}"),
        Ok(answer) => assert!(!cfg!(debug_assertions) && answer.is_err(), "{answer:?}"),
    }
    assert_eq!(read(&meter, "dispatch_sqs_misuse_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_entry_is_told_again_whosever_fault_it_is_said_to_be() {
    let fake = fake();
    fake.send("q", "x");
    let mut source = source(&fake, |_| ());
    let delivery = crate::receive(&mut source, 1).await.remove(0);
    fake.fail("DeleteMessageBatch", 1, refused(&[0], "KMS.ThrottlingException"));

    crate::ack(delivery).await;

    assert_eq!((fake.deleted("q"), fake.requests("DeleteMessageBatch")), (1, 2));
}
