//! An initiator that says one thing after the other, as a test wants it (RFC 7143): QEMU's says on its own account what comes next.

use md5::{Digest as _, Md5};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, Way};

const HEADER_BYTES: usize = 48;
const LOGIN: u8 = 0x43;
const COMMAND: u8 = 0x01;
const COMMAND_ANSWERED: u8 = 0x21;
const TRANSIT: u8 = 0x80;
pub const BLOCK_BYTES: usize = 512;

pub struct Initiator {
    stream: TcpStream,
    way: Way,
    /// Of its session.
    isid: u8,
    command: u32,
    heard: u32,
}

impl Initiator {
    /// Connects, and says whom it wants.
    pub async fn that_begins(way: &Way, isid: u8) -> Self {
        let stream = TcpStream::connect(&way.portal).await.expect("the portal");
        let mut new = Self {
            stream,
            way: way.clone(),
            isid,
            command: 1,
            heard: 0,
        };
        let text = format!(
            "InitiatorName={}\0TargetName={}\0SessionType=Normal\0AuthMethod=CHAP\0",
            way.initiator, way.target
        );
        new.say_login(0x01, &text).await;
        new
    }

    /// Says the rest of what is needed to be let in, and hears that it is.
    pub async fn logs_in(&mut self) {
        self.hear_login().await;
        self.say_login(0x00, "CHAP_A=5\0").await;
        let asked = self.hear_login().await;
        let of = |key: &str| {
            let mut pairs = asked.split('\0');
            let value = pairs.find_map(|pair| pair.strip_prefix(key));
            value.expect("it asks").to_owned()
        };
        let (number, challenge) = (of("CHAP_I="), of("CHAP_C=0x"));
        let mut digest = Md5::new();
        digest.update([number.parse::<u8>().expect("a byte")]);
        digest.update(&self.way.secret);
        let digits = challenge.as_bytes().chunks(2);
        for pair in digits {
            let pair = std::str::from_utf8(pair).expect("digits");
            digest.update([u8::from_str_radix(pair, 16).expect("digits")]);
        }
        let answer: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let text = format!("CHAP_N=stratus\0CHAP_R=0x{answer}\0");
        self.say_login(TRANSIT | 0x01, &text).await;
        self.hear_login().await;
        let text = "HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0MaxRecvDataSegmentLength=65536\0FirstBurstLength=65536\0";
        self.say_login(TRANSIT | 0x07, text).await;
        self.hear_login().await;
        // The first command of a session is told that it is the first.
        self.say(&self.command_of([0; 16], 0, 0), &[]).await;
        self.is_answered().await;
    }

    /// Says that this block is to be of these bytes; so many of them are sent.
    pub async fn writes(&mut self, block: u8, byte: u8, sent: usize) {
        let mut what = [0; 16];
        what[0] = 0x2a;
        what[5] = block;
        what[8] = 1;
        let header = self.command_of(what, 0x20, BLOCK_BYTES);
        self.say(&header, &vec![byte; sent]).await;
    }

    /// Sends some more, whoever hears it.
    pub async fn says_more(&mut self, byte: u8, bytes: usize) {
        let _ = self.stream.write_all(&vec![byte; bytes]).await;
    }

    /// Hears the answer to a command; how it went.
    pub async fn is_answered(&mut self) -> u8 {
        let (header, _) = self.hear().await;
        assert_eq!(header[0], COMMAND_ANSWERED, "{header:?}");
        self.command += 1;
        header[3]
    }

    /// Hears that the connection has ended.
    pub async fn is_ended(&mut self) {
        let mut rest = Vec::new();
        // With what was still on the way; or it was cut while we spoke.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .expect("in time");
    }

    fn command_of(&self, what: [u8; 16], direction: u8, bytes: usize) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = COMMAND;
        header[1] = 0x80 | direction | 0x01;
        put(&mut header, 4, bytes);
        header[9] = 1;
        put(&mut header, 16, self.command as usize);
        put(&mut header, 20, bytes);
        put(&mut header, 24, self.command as usize);
        put(&mut header, 28, self.heard as usize + 1);
        header[32..].copy_from_slice(&what);
        header
    }

    async fn say_login(&mut self, stage: u8, text: &str) {
        let mut header = [0; HEADER_BYTES];
        header[0] = LOGIN;
        header[1] = stage;
        put(&mut header, 4, text.len());
        // A random one, as libiscsi's is.
        header[8] = 0x80;
        header[13] = self.isid;
        put(&mut header, 16, 1);
        put(&mut header, 24, 1);
        put(&mut header, 28, self.heard as usize + 1);
        let mut words = text.as_bytes().to_vec();
        words.resize(text.len().next_multiple_of(4), 0);
        self.say(&header, &words).await;
    }

    async fn hear_login(&mut self) -> String {
        let (header, text) = self.hear().await;
        assert_eq!((header[0], header[36]), (0x23, 0), "{header:?}");
        String::from_utf8(text).expect("text")
    }

    async fn say(&mut self, header: &[u8], words: &[u8]) {
        let all = [header, words].concat();
        self.stream.write_all(&all).await.expect("it is said");
    }

    async fn hear(&mut self) -> (Vec<u8>, Vec<u8>) {
        let hearing = async {
            let mut header = vec![0; HEADER_BYTES];
            self.stream.read_exact(&mut header).await?;
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let mut text = vec![0; length.next_multiple_of(4)];
            self.stream.read_exact(&mut text).await?;
            Ok::<_, std::io::Error>((header, text))
        };
        let heard = timeout(PATIENCE, hearing).await.expect("in time");
        let heard = heard.expect("an answer");
        self.heard = u32::from_be_bytes([heard.0[24], heard.0[25], heard.0[26], heard.0[27]]);
        heard
    }
}

fn put(header: &mut [u8], at: usize, number: usize) {
    let number = u32::try_from(number).expect("small").to_be_bytes();
    header[at..at + 4].copy_from_slice(&number);
}
