//! A real browser for tests of pages: headless Chromium, driven by chromedriver (W3C WebDriver).

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long the browser may take for anything, however busy the computer is.
const PATIENCE: Duration = Duration::from_secs(90);
/// The member that WebDriver names an element by.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with a profile of its own. Gone when dropped. Takes every certificate.
pub struct Browser {
    client: Client,
    session: String,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one. `None` if there is none here, which is said, unless `STRATUS_REQUIRE_ALL` demands it.
    pub async fn start() -> Option<Self> {
        for program in ["/usr/bin/chromium", "/usr/bin/chromedriver"] {
            if !Path::new(program).exists() {
                let text = format!("{program} is missing (Debian: chromium, chromium-driver)");
                assert!(std::env::var_os("STRATUS_REQUIRE_ALL").is_none(), "{text}");
                eprintln!("skipped: {text}");
                return None;
            }
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("/usr/bin/chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What it starts ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    return port.trim_end_matches('.').parse::<u16>().unwrap();
                }
            }
            panic!("chromedriver ended");
        };
        let port = timeout(PATIENCE, listening).await.unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let mut browser = Self {
            client,
            session: format!("http://127.0.0.1:{port}/session"),
            driver,
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1100,1000",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "acceptInsecureCerts": true,
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments}}}});
        let made = browser.ask(Method::POST, "", wanted).await;
        let id = made["sessionId"].as_str().unwrap();
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        self.try_ask(method, path, body).await.unwrap()
    }

    async fn try_ask(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let mut request = self.client.request(method.clone(), &url);
        if method == Method::POST {
            request = request.json(&body);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| format!("{path}: {error}"))?;
        let status = answer.status();
        let answer: Value = answer
            .json()
            .await
            .map_err(|error| format!("{path}: {error}"))?;
        if status.is_success() {
            return Ok(answer["value"].clone());
        }
        Err(format!("{path}: {}", answer["value"]["message"]))
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.ask(Method::POST, "/url", json!({"url": url})).await;
    }

    /// Where it is.
    pub async fn url(&self) -> String {
        let url = self.ask(Method::GET, "/url", Value::Null).await;
        url.as_str().unwrap().to_owned()
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> String {
        let body = self.find("body").await;
        let text = self
            .ask(Method::GET, &format!("/element/{body}/text"), Value::Null)
            .await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits until a person reads `text` on the page.
    pub async fn wait_for(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.try_text().await;
            if found.as_ref().is_ok_and(|found| found.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < until,
                "`{text}` is not to be read: {found:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a person doesn't read `text` on the page.
    pub async fn wait_without(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.try_text().await;
            if found.as_ref().is_ok_and(|found| !found.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < until,
                "`{text}` stays to be read: {found:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_text(&self) -> Result<String, String> {
        let body = self.try_find("body").await?;
        let text = self
            .try_ask(Method::GET, &format!("/element/{body}/text"), Value::Null)
            .await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    async fn find(&self, selector: &str) -> String {
        self.try_find(selector).await.unwrap()
    }

    async fn try_find(&self, selector: &str) -> Result<String, String> {
        let by = json!({"using": "css selector", "value": selector});
        let found = self.try_ask(Method::POST, "/element", by).await?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }

    /// Writes into the field of this name, in place of what is there.
    pub async fn fill(&self, name: &str, text: &str) {
        let field = self.find(&format!("[name=\"{name}\"]")).await;
        self.ask(Method::POST, &format!("/element/{field}/clear"), json!({}))
            .await;
        self.ask(
            Method::POST,
            &format!("/element/{field}/value"),
            json!({"text": text}),
        )
        .await;
    }

    /// Clicks what a selector of CSS finds first.
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.ask(
            Method::POST,
            &format!("/element/{element}/click"),
            json!({}),
        )
        .await;
    }

    /// Clicks the link with this text.
    pub async fn follow(&self, text: &str) {
        let by = json!({"using": "link text", "value": text});
        let found = self.ask(Method::POST, "/element", by).await;
        let element = found[ELEMENT].as_str().unwrap();
        let path = format!("/element/{element}/click");
        self.ask(Method::POST, &path, json!({})).await;
    }

    /// Chooses what is called so in the list of this name.
    pub async fn select(&self, name: &str, label: &str) {
        let by = json!({"using": "xpath", "value": format!("//select[@name='{name}']/option[normalize-space(.)='{label}']")});
        let found = self.ask(Method::POST, "/element", by).await;
        let element = found[ELEMENT].as_str().unwrap();
        let path = format!("/element/{element}/click");
        self.ask(Method::POST, &path, json!({})).await;
    }

    /// What a script on the page answers.
    pub async fn run(&self, script: &str) -> Value {
        self.ask(
            Method::POST,
            "/execute/sync",
            json!({"script": script, "args": []}),
        )
        .await
    }

    /// Makes the window so large.
    pub async fn resize(&self, width: u32, height: u32) {
        self.ask(
            Method::POST,
            "/window/rect",
            json!({"width": width, "height": height}),
        )
        .await;
    }

    async fn command(&self, name: &str, parameters: Value) {
        let body = json!({"cmd": name, "params": parameters});
        self.ask(Method::POST, "/goog/cdp/execute", body).await;
    }

    /// Whether pages may run scripts of their own.
    pub async fn scripts(&self, allowed: bool) {
        let parameters = json!({"value": !allowed});
        self.command("Emulation.setScriptExecutionDisabled", parameters)
            .await;
    }

    /// Whether its reader prefers dark pages.
    pub async fn dark(&self, wanted: bool) {
        let value = if wanted { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        let parameters = json!({"features": [feature]});
        self.command("Emulation.setEmulatedMedia", parameters).await;
    }

    /// Names a file on this computer in the field that a selector of CSS finds.
    pub async fn choose(&self, selector: &str, file: &str) {
        let field = self.find(selector).await;
        let path = format!("/element/{field}/value");
        self.ask(Method::POST, &path, json!({"text": file})).await;
    }

    /// A picture of the page, into the folder `STRATUS_SCREENSHOTS` if that is set.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("STRATUS_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        let picture = self.ask(Method::GET, "/screenshot", Value::Null).await;
        let bytes = from_base64(picture.as_str().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver and all that it started: they are a group.
        if let Some(group) = self
            .driver
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Bytes out of Base64 (RFC 4648 §4).
fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).unwrap());
        }
    }
    bytes
}
