//! One request over a kept connection or a new one, until its answer is whole.

use dispatch_core::Error;
use futures::future::Either;
use http::{HeaderMap, Version};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::TrySendError,
};
use tokio::time::timeout;

use super::{Caller, Make, answer::Answered};
use crate::http::{
    HttpSinkError,
    body::{self, Broken},
    connect::{Connection, Request},
    pool::{Loan, Origin},
    url::Url,
    wire,
};

impl Caller {
    /// Sends the request and reads its answer.
    pub(super) async fn round_trip(&self, origin: &Origin, url: &Url, make: Make<'_>) -> Result<Answered, Error> {
        let inactive = |after| HttpSinkError::Inactive {
            url: url.shown.to_string(),
            after,
        };
        let (response, connection) = match self.inactivity {
            None => self.call(origin, url, make).await?,
            Some(limit) => Box::pin(timeout(limit, self.call(origin, url, make)))
                .await
                .unwrap_or_else(|_| Err(inactive(limit).into()))?,
        };
        let (parts, body) = response.into_parts();
        if body.is_end_stream() {
            let answer = body::Answer::default();
            return Ok(Answered {
                parts,
                answer,
                connection,
            });
        }
        let answer = Box::pin(body::read(body, self.max_response, self.inactivity))
            .await
            .map_err(|broken| match broken {
                Broken::Inactive(limit) => inactive(limit),
                Broken::Transport(source) => HttpSinkError::Transport {
                    url: url.shown.to_string(),
                    source,
                },
            })?;
        Ok(Answered {
            parts,
            answer,
            connection,
        })
    }

    /// Writes the request on a kept connection, or on a new one if those turn out closed before a byte is sent. By sqsd's
    /// convention it is also written once more, on a new connection, where a kept one was closed before a byte came.
    async fn call(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        let Some((Loan { mut connection, reused }, headers)) = origin.lend(self.keep_alive) else {
            return Box::pin(self.call_anew(origin, url, make)).await;
        };
        let request = match make(url, headers) {
            Ok(request) => request,
            Err(error) => {
                origin.keep(connection, HeaderMap::new());
                return Err(error);
            }
        };
        // As `attempt`, whose future would keep the request's room in every send.
        let before = self.received(&connection, reused);
        let error = match send(&mut connection, url, request).await {
            Ok(response) => return Ok((response, connection)),
            Err(error) => error,
        };
        let failed = Box::new(Failed {
            connection,
            reused,
            before,
            error,
        });
        Box::pin(self.call_again(origin, url, make, failed)).await
    }

    /// The same where no kept connection is ready. Whatever connects is a large future, and a rare one.
    async fn call_anew(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        let request = make(url, HeaderMap::new())?;
        let loan = origin.acquire(&self.connector, self.keep_alive).await?;
        match self.attempt(loan, url, request).await {
            Ok(answered) => Ok(answered),
            Err(failed) => self.call_again(origin, url, make, failed).await,
        }
    }

    /// Goes on where a request could not be sent, or was not answered.
    async fn call_again(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
        mut failed: Box<Failed>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        loop {
            let (request, loan) = match (failed.error.take_message(), failed.before) {
                (Some(unsent), _) if failed.reused => {
                    origin.forget_shared();
                    (unsent, origin.acquire(&self.connector, self.keep_alive).await?)
                }
                (None, Some(before)) if is_unanswered(&failed.connection, before) => {
                    tracing::debug!(url = %url.shown, "kept connection was closed without an answer, posting once more");
                    (make(url, HeaderMap::new())?, origin.connect(&self.connector).await?)
                }
                _ => {
                    return Err(HttpSinkError::Transport {
                        url: url.shown.to_string(),
                        source: failed.error.into_error(),
                    }
                    .into());
                }
            };
            match self.attempt(loan, url, request).await {
                Ok(answered) => return Ok(answered),
                Err(again) => failed = again,
            }
        }
    }

    /// Sends the request over this connection; without an answer, tells all that says whether it may be sent again.
    async fn attempt(
        &self,
        Loan { mut connection, reused }: Loan,
        url: &Url,
        request: Request,
    ) -> Result<(http::Response<Incoming>, Connection), Box<Failed>> {
        let before = self.received(&connection, reused);
        match send(&mut connection, url, request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Box::new(Failed {
                connection,
                reused,
                before,
                error,
            })),
        }
    }

    /// How much has come over a kept connection, where it matters whether anything came since.
    fn received(&self, connection: &Connection, reused: bool) -> Option<u64> {
        match connection {
            Connection::Http1(kept) if reused && self.sqsd.is_some() => Some(kept.received.bytes()),
            _ => None,
        }
    }
}

/// A request without an answer.
struct Failed {
    connection: Connection,
    reused: bool,
    /// How much had come over the connection.
    before: Option<u64>,
    error: TrySendError<Request>,
}

/// Hands the request to the connection, in the form of its version; waits for the head of the answer.
fn send<'a>(
    connection: &'a mut Connection,
    url: &Url,
    mut request: Request,
) -> impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request>>> + use<'a> {
    match connection {
        Connection::Http1(kept) => {
            if request.version() == Version::HTTP_2 {
                wire::shape(&mut request, url, Version::HTTP_11);
            }
            Either::Left(kept.sender.try_send_request(request))
        }
        Connection::Http2(sender) => {
            wire::shape(&mut request, url, Version::HTTP_2);
            Either::Right(sender.try_send_request(request))
        }
    }
}

/// Whether nothing has come since there were `before` bytes.
fn is_unanswered(connection: &Connection, before: u64) -> bool {
    matches!(connection, Connection::Http1(kept) if kept.received.bytes() == before)
}
