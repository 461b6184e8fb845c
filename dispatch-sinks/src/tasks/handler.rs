//! Functions as handlers.

use std::future::Future;

use dispatch_core::{Error, Reply};
use futures::future::BoxFuture;

use super::{
    Task,
    extract::{Context, FromContext},
};

/// An `async fn` that takes a [`Task`] and up to four values of [`FromContext`], and returns
/// `Result<impl Into<Reply>, impl Into<Error>>`.
pub trait Handler<T: Task, Arguments>: Clone + Send + Sync + 'static {
    /// Calls it. The context is to live as long as the future.
    fn call(&self, task: T, context: Context) -> BoxFuture<'static, Result<Reply, Error>>;
}

macro_rules! handlers {
    ($(($($argument:ident),*))*) => { $(
        impl<F, T, R, O, E, $($argument,)*> Handler<T, ($($argument,)*)> for F
        where
            F: Fn(T, $($argument),*) -> R + Clone + Send + Sync + 'static,
            R: Future<Output = Result<O, E>> + Send,
            T: Task,
            O: Into<Reply>,
            E: Into<Error>,
            $($argument: FromContext,)*
        {
            #[allow(non_snake_case, unused_variables, reason = "made for each number of arguments, none included")]
            fn call(&self, task: T, context: Context) -> BoxFuture<'static, Result<Reply, Error>> {
                let handler = self.clone();
                Box::pin(async move {
                    $(let $argument = $argument::from_context(&context)?;)*
                    handler(task, $($argument),*).await.map(Into::into).map_err(Into::into)
                })
            }
        }
    )* };
}

handlers! { () (A) (A, B) (A, B, C) (A, B, C, D) }
