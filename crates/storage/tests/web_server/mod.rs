//! A small web server that can behave badly on purpose: break off, ignore ranges, change the file, redirect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How a request is answered.
#[derive(Clone)]
pub enum Answer {
    /// From the offset asked for (or the start), closing after so many bytes of body. An empty `etag` is not told.
    Body {
        bytes: Arc<Vec<u8>>,
        etag: &'static str,
        ranges: bool,
        at_most: usize,
    },
    /// Status line and headers, no body.
    Head(String),
    /// The other answer, once notified.
    After(Arc<Notify>, Box<Answer>),
    /// A byte of body every so often, for ever.
    Dribble(std::time::Duration),
    /// Nothing, ever.
    Silence,
}

/// A running server; ends when dropped.
pub struct WebServer {
    pub url: String,
    pub requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WebServer {
    /// Answers the n-th request (from 0) as `answer` says.
    pub async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(move |_, number| answer(number)).await
    }

    /// Answers the n-th request, which is for this path and query, as `answer` says.
    pub async fn start_with(
        answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/image", listener.local_addr().expect("address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (requests.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                connections.spawn(serve(stream, move |path| answer(path, number)));
            }
        });
        Self {
            url,
            requests,
            task,
        }
    }
}

async fn serve(mut stream: TcpStream, answer: impl Fn(&str) -> Answer) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let answer = answer(path);
    let request = request.to_lowercase();
    let answer = match answer {
        Answer::After(gate, answer) => {
            gate.notified().await;
            *answer
        }
        other => other,
    };
    match answer {
        Answer::Dribble(pause) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .await?;
            loop {
                stream.write_all(b"x").await?;
                tokio::time::sleep(pause).await;
            }
        }
        Answer::Silence | Answer::After(..) => std::future::pending().await,
        Answer::Head(head) => {
            stream
                .write_all(format!("{head}connection: close\r\n\r\n").as_bytes())
                .await
        }
        Answer::Body {
            bytes,
            etag,
            ranges,
            at_most,
        } => {
            let asked = request
                .lines()
                .find_map(|line| {
                    line.strip_prefix("range: bytes=")?
                        .strip_suffix('-')?
                        .parse::<usize>()
                        .ok()
                })
                .filter(|_| ranges);
            let start = asked.unwrap_or(0);
            let status = match asked {
                Some(_) => format!(
                    "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{}/{}\r\n",
                    bytes.len() - 1,
                    bytes.len()
                ),
                None => "HTTP/1.1 200 OK\r\n".to_owned(),
            };
            let rest = &bytes[start..];
            let etag = match etag {
                "" => String::new(),
                etag => format!("etag: \"{etag}\"\r\n"),
            };
            let head = format!(
                "{status}{etag}content-length: {}\r\nconnection: close\r\n\r\n",
                rest.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&rest[..rest.len().min(at_most)]).await?;
            stream.shutdown().await
        }
    }
}
