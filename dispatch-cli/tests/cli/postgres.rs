//! A PostgreSQL for tests.

use std::io::Write as _;

use dispatch_core::random_id;

/// Where the server is; without one the test says that it is skipped.
pub(crate) fn url(test: &str) -> Option<String> {
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "DISPATCH_TEST_POSTGRES_URL is not set"
        );
        drop(writeln!(
            std::io::stderr(),
            "skipped: {test}: DISPATCH_TEST_POSTGRES_URL is not set"
        ));
    }
    url
}

/// A schema of its own, dropped at the end.
pub(crate) struct Schema {
    pub(crate) name: String,
    client: tokio_postgres::Client,
}

impl Schema {
    pub(crate) async fn new(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let name = format!("t_{}", random_id().replace('-', "_").to_lowercase());
        Self { name, client }
    }

    pub(crate) async fn drop(self) {
        let statement = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name);
        self.client.batch_execute(&statement).await.unwrap();
    }
}
