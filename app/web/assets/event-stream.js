/**
 * A stream of server-sent events while the page is visible: it is reopened whenever it ends, and
 * when it falls silent.
 *
 * @module
 */

const FIRST_PAUSE_SECONDS = 1;
const LONGEST_PAUSE_SECONDS = 30;
// The service sends something every 15 seconds.
const LONGEST_SILENCE_SECONDS = 40;

/**
 * @param {string} address
 * @param {string[]} names  of the events; beside them "ping" says that the service is still there
 * @param {(name: string, content: any) => void} onEvent  content is the event's JSON
 * @param {(isOpen: boolean) => void} onState  true: something was heard just now
 */
export function follow(address, names, onEvent, onState) {
  let source = null;
  let timer = null;
  let pause = FIRST_PAUSE_SECONDS;

  function open() {
    source = new EventSource(address);
    watchSilence();
    for (const name of names) {
      source.addEventListener(name, (event) => {
        hear();
        onEvent(name, JSON.parse(event.data));
      });
    }
    source.addEventListener("ping", hear);
    source.addEventListener("error", () => {
      // Browsers try again after a broken connection, but give up for good after any other answer than a stream.
      close();
      timer = setTimeout(open, pause * 1000);
      pause = Math.min(LONGEST_PAUSE_SECONDS, pause * 2);
    });
  }

  function hear() {
    pause = FIRST_PAUSE_SECONDS;
    watchSilence();
    onState(true);
  }

  /** A lost network or a service without power closes no connection. */
  function watchSilence() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      close();
      open();
    }, LONGEST_SILENCE_SECONDS * 1000);
  }

  function close() {
    source?.close();
    clearTimeout(timer);
    source = timer = null;
    onState(false);
  }

  // A hidden page costs the service nothing.
  document.addEventListener("visibilitychange", () => {
    close();
    if (!document.hidden) open();
  });
  if (!document.hidden) open();
}
