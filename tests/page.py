#!/usr/bin/env python3
"""Proves: the page of `sae features` in a real browser: it loads without an error or a request, the list, search
and sort work, a feature's panel shows what the data say, links lead on, it fits a phone, and text that looks like
markup stays text.

Oracle: the JSON inside the page, read here. Tolerance: none.
Needs Chromium (chromium, chromium-browser or google-chrome, or SAE_BROWSER); skips itself, loudly, without one.
It is driven over its debugging pipe, so no package is needed.
usage: page.py PAGE.html [FOLDER]      screenshots go to FOLDER: wide and narrow, light and dark"""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

passed = failed = 0


def check(condition, what):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print("FAILED  " + what)


class Browser:
    """One tab of a headless Chromium, over file descriptors 3 and 4: messages of JSON with a NUL behind."""

    def __init__(self, program, profile):
        to_read, self.to = os.pipe()
        self.back, back_write = os.pipe()

        def place():
            os.dup2(to_read, 203), os.dup2(back_write, 204)  # first out of the way of 3 and 4
            os.dup2(203, 3), os.dup2(204, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
             "--no-first-run", "--disable-extensions", "--disable-background-networking", "--user-data-dir=" + profile,
             "about:blank"],
            preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read), os.close(back_write)
        self.number, self.rest, self.events = 0, b"", []
        self.session = None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]

    def message(self):
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 20)
            if not part:
                raise RuntimeError("the browser is gone")
            self.rest += part
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, **params):
        self.number += 1
        ask = {"id": self.number, "method": method, "params": params}
        if self.session:
            ask["sessionId"] = self.session
        os.write(self.to, json.dumps(ask).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, script):
        """What an expression, or a promise, gives."""
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"{script}: {got['exceptionDetails'].get('exception', {}).get('description', '')}")
        return got["result"].get("value")

    def wait(self, script, seconds=10):
        end = time.time() + seconds
        while time.time() < end:
            if self.value(script):
                return True
            time.sleep(0.05)
        return False

    def close(self):
        self.session = None
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        self.process.wait(20)


def page_data(path):
    text = open(path, encoding="utf-8", newline="").read()
    check(not re.search(r"https?://(?!www\.w3\.org/2000/svg)", re.sub(
        r'<script type="application/json".*?</script>', "", text, flags=re.S)), "the page names no other place")
    return json.loads(re.search(r'<script type="application/json" id="data">\n(.*?)\n</script>', text, re.S).group(1))


ITEMS = "[...document.querySelectorAll('#list .item')].map(b => +b.dataset.i)"


def type_in(browser, text):
    browser.value(f"(() => {{ const s = document.getElementById('search'); s.value = {json.dumps(text)};"
                  "s.dispatchEvent(new Event('input')); })()")


def sort_by(browser, key):
    browser.value(f"(() => {{ const s = document.getElementById('sort'); s.value = '{key}';"
                  "s.dispatchEvent(new Event('change')); })()")


def test_list(browser, data):
    run = data["runs"][0]
    features = {f["i"]: f for f in run["features"]}
    shown = browser.value(ITEMS)
    check(len(shown) == min(120, len(features)), f"{len(shown)} of {len(features)} features are listed at first")
    for key in ("max", "mean", "density", "peak", "spread", "i"):
        sort_by(browser, key)
        name = "n" if key == "density" else key
        values = [features[i][name] for i in browser.value(ITEMS)]
        values = [-1e9 if v is None else v for v in values]
        down = key not in ("i", "spread")
        check(values == sorted(values, reverse=down), f"sorted by {key}")
        every = [-1e9 if f[name] is None else f[name] for f in features.values()]
        check(values[:1] == sorted(every, reverse=down)[:1], f"the first by {key}")
    sort_by(browser, "max")
    browser.value("document.getElementById('order').click()")
    values = [features[i]["max"] for i in browser.value(ITEMS)]
    check(values == sorted(values), "the order turned round")
    browser.value("document.getElementById('order').click()")
    browser.value("document.getElementById('list').scrollTop = 1e6")
    check(browser.wait(f"({ITEMS}).length >= {min(240, len(features))}"), "more come when scrolled")


def test_search(browser, data):
    features = data["runs"][0]["features"]
    one = features[len(features) // 2]
    type_in(browser, "#" + str(one["i"]))
    check(browser.value(ITEMS)[:1] == [one["i"]], "search by number")
    counts = {}
    for f in features:
        if f["t"]:
            token = data["vocab"][f["t"][0][0]].strip().lower()
            counts[token] = counts.get(token, 0) + 1
    word = max((w for w in counts if re.fullmatch(r"[a-z]{3,}", w)), key=lambda w: (len(w), w), default="")
    type_in(browser, word)
    found = browser.value(ITEMS)
    holders = [f["i"] for f in features if f["t"] and data["vocab"][f["t"][0][0]].strip().lower() == word]
    check(found and set(holders) & set(found) and len(found) < len(features), f"search by token, {word!r}")
    type_in(browser, "no such thing \u2603")
    check(browser.value(ITEMS) == [] and "No feature" in browser.value("document.getElementById('list').textContent"),
          "search that finds nothing says so")
    type_in(browser, "")
    check(len(browser.value(ITEMS)) > 1, "an empty search shows all")


def test_panel(browser, data):
    run = data["runs"][0]
    features = {f["i"]: f for f in run["features"]}
    browser.value("document.querySelector('#list .item').click()")
    number = browser.value(ITEMS)[0]
    f = features[number]
    check(browser.wait(f"document.querySelector('main h2') && document.querySelector('main h2').textContent === '#{number}'"),
          "a click shows the panel")
    check(browser.value("document.querySelectorAll('main .ctx').length") == len(f["e"]) + len(f["s"]), "every context")
    tokens = browser.value("[...document.querySelectorAll('main .ctx p')].map(p => p.children.length)")
    check(sum(tokens) > 4 * len(tokens), "with the tokens around")
    marked = browser.value("document.querySelectorAll('main .ctx:nth-of-type(1) p span.on').length")
    check(marked >= 1 and browser.value("!!document.querySelector('main .ctx .at').dataset.tip"), "tokens are shaded")
    check(browser.value("document.querySelectorAll('main svg .bar').length") == sum(1 for c in f["h"][1:] if c), "histogram")
    text = browser.value("document.querySelector('main').innerText")
    for title, there in (("Tokens", f["t"]), ("Logits", f["lt"]), ("When taken away", f["ad"]), ("When added", f["su"]),
                         ("Neighbours", f["nb"])):
        check((title in text) == bool(there), f"{title} is on the panel where it was measured")
    browser.value("document.querySelector('main .ctx .at').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
    check(browser.value("document.getElementById('tip').classList.contains('show')"), "a token tells its value")
    linked = [i for i, _ in f["nb"] if i in features]
    if linked:
        browser.value("[...document.querySelectorAll('main button.kv')][0].click()")
        check(browser.wait(f"document.querySelector('main h2').textContent === '#{linked[0]}'"), "a neighbour leads on")
        browser.value("history.back()")
        check(browser.wait(f"document.querySelector('main h2').textContent === '#{number}'"), "and back")
    browser.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))")
    second = browser.value(ITEMS)[1]
    check(browser.wait(f"document.querySelector('main h2').textContent === '#{second}'"), "j goes to the next")
    browser.value("document.getElementById('overview').click()")
    check(browser.wait("document.querySelectorAll('main table tbody tr').length === " + str(len(data["runs"]))),
          "the overview has a row a run")
    check(browser.value("document.querySelectorAll('main canvas').length") == 1, "the overview has the map")
    if len(data["runs"]) > 1:
        browser.value("document.querySelectorAll('#runs button')[1].click()")
        name = data["runs"][1]["name"]
        check(browser.wait(f"document.querySelector('main h2').textContent === {json.dumps(name)}"), "another run")
        check(browser.value(ITEMS)[0] in {g["i"] for g in data["runs"][1]["features"]}, "with its features")
        browser.value("document.querySelectorAll('#runs button')[0].click()")


def shoot(browser, folder, name, width, height, dark):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
    time.sleep(0.4)
    check(browser.value("document.documentElement.scrollWidth <= innerWidth"), f"{name}: nothing sticks out sideways")
    if folder:
        got = browser.call("Page.captureScreenshot", format="png")
        open(os.path.join(folder, name + ".png"), "wb").write(base64.b64decode(got["data"]))


def test_sizes(browser, data, folder):
    first = data["runs"][0]["features"][0]["i"]
    background = "getComputedStyle(document.body).backgroundColor"
    grounds = []
    for what, target in (("overview", "#0"), ("feature", f"#0/{first}")):
        browser.value(f"location.hash = '{target}'")
        for dark in (False, True):
            for width, height in ((1400, 1000), (390, 844)):
                tone = "dark" if dark else "light"
                shoot(browser, folder, f"{what}_{width}_{tone}", width, height, dark)
                grounds.append((dark, browser.value(background)))
    check(len({g for d, g in grounds if d}) == 1 and len({g for d, g in grounds if not d}) == 1 and len(set(grounds)) == 2
          and grounds[0][1] != grounds[-1][1], "light and dark by the system's choice")
    browser.value("document.getElementById('theme').click()")
    check(browser.value(background) == grounds[0][1], "and by the button")
    browser.value("document.querySelector('.top .back button, .top button.back').click()")
    check(browser.wait("getComputedStyle(document.querySelector('main')).display === 'none' && "
                       "getComputedStyle(document.querySelector('.side')).display !== 'none'"), "narrow: the list by itself")
    shoot(browser, folder, "list_390_light", 390, 844, True)


def main():
    names = [os.environ.get("SAE_BROWSER"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    program = next((shutil.which(n) for n in names if n and shutil.which(n)), None)
    if not program:
        print("SKIPPED: no Chromium is installed: the page is not tested in a browser")
        print("0 passed, 0 failed")
        return 0
    path, folder = os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    if folder:
        os.makedirs(folder, exist_ok=True)
    data = page_data(path)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.call(domain + ".enable")
            begin = time.time()
            browser.call("Page.navigate", url="file://" + path)
            check(browser.wait("document.readyState === 'complete' && document.querySelectorAll('#list .item').length > 0"),
                  "the page comes up")
            seconds = time.time() - begin
            check(seconds < 5, f"it opens in {seconds:.1f} s")
            test_list(browser, data)
            test_search(browser, data)
            test_panel(browser, data)
            test_sizes(browser, data, folder)
            check(browser.value("typeof window.hacked") == "undefined", "text that looks like a script is not run")
            browser.value("1")
            seen = [(e.get("method"), e.get("params", {})) for e in browser.events]
            wrong = {
                "an exception": [p for m, p in seen if m == "Runtime.exceptionThrown"],
                "an error in the log": [p for m, p in seen if m == "Log.entryAdded" and p["entry"]["level"] == "error"],
                "a line on the console": [p for m, p in seen if m == "Runtime.consoleAPICalled"],
                "a request": [p for m, p in seen if m == "Network.requestWillBeSent"
                              and not p["request"]["url"].startswith(("file://" + path, "data:"))]}
            for what, found in wrong.items():
                check(not found, f"{what}: {json.dumps(found)[:300]}")
            check(any(m == "Network.requestWillBeSent" for m, _ in seen), "requests are seen at all")
        finally:
            browser.close()
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
