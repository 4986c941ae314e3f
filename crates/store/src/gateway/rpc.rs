//! The calls as gRPC.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http_body::Body as HttpBody;
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Peer, Shared, calls, hub, leases, status, transaction};
use crate::MAX_TRANSACTION_BYTES;
use crate::etcd::wire::path;

/// A transaction and what surrounds it.
const MESSAGE_MAX_BYTES: usize = 2 * MAX_TRANSACTION_BYTES;

type Answered<A> = BoxFuture<'static, Result<Response<A>, Status>>;

/// What a call answers that goes on.
type Told<A> = BoxFuture<'static, Result<BoxStream<'static, Result<A, Status>>, Status>>;

/// One message, one answer.
struct Unary<F>(F);

impl<F, Q, A, W> UnaryService<Q> for Unary<F>
where
    F: Fn(Q) -> W,
    W: Future<Output = Result<A, Status>> + Send + 'static,
    A: 'static,
{
    type Response = A;
    type Future = Answered<A>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async { answer.await.map(Response::new) })
    }
}

/// Messages that the first of the other side asks for. What else it says isn't heard.
struct Listening<Q, A> {
    shared: Arc<Shared>,
    peer: Peer,
    // (Not some closure: with one, the compiler can't see that all of it is `Send`.)
    answer: fn(Arc<Shared>, Peer, Q) -> Told<A>,
}

impl<Q: Send + 'static, A: 'static> StreamingService<Q> for Listening<Q, A> {
    type Response = A;
    type ResponseStream = BoxStream<'static, Result<A, Status>>;
    type Future = Answered<Self::ResponseStream>;

    fn call(&mut self, request: Request<Streaming<Q>>) -> Self::Future {
        let (shared, peer) = (Arc::clone(&self.shared), self.peer.clone());
        let answer = self.answer;
        Box::pin(async move {
            let mut said = request.into_inner();
            let asked = said.message().await?;
            let asked = asked.ok_or_else(|| Status::invalid_argument("nothing was asked"))?;
            let told = answer(shared, peer, asked).await?;
            // It ends when the other side ends.
            let end = async move { while let Ok(Some(_)) = said.message().await {} };
            Ok(Response::new(told.take_until(end).boxed()))
        })
    }
}

fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

pub(super) async fn answer<B>(
    shared: Arc<Shared>,
    peer: Peer,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let (turns, caller) = (Arc::clone(&shared), peer.clone());
    /// A call whose function takes what all of them do.
    macro_rules! unary {
        ($function:path) => {{
            let call = move |asked| {
                let (shared, peer) = (Arc::clone(&shared), peer.clone());
                async move { $function(&shared, &peer, asked).await }
            };
            let turn = turns.allowances.turn(&caller).await;
            let answer = grpc().unary(Unary(call), request).await;
            // Held until the answer is sent.
            answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _held = &turn;
                    frame
                }))
            })
        }};
    }
    macro_rules! listening {
        ($function:path) => {{
            let listening = Listening {
                shared,
                peer,
                answer: |shared, peer, asked| {
                    Box::pin(async move { $function(&shared, &peer, asked).await })
                },
            };
            grpc().streaming(listening, request).await
        }};
    }
    match request.uri().path() {
        path::RANGE => unary!(calls::range),
        path::TXN => unary!(transaction::answer),
        path::PUT => unary!(calls::progress),
        path::WATCH => listening!(hub::watch),
        path::LEASE_GRANT => unary!(leases::grant),
        path::LEASE_REVOKE => unary!(leases::revoke),
        path::LEASE_KEEP_ALIVE => listening!(leases::keep_alive),
        path::LEASE_TIME_TO_LIVE => unary!(leases::time_to_live),
        other => status::unusual(other).into_http(),
    }
}
