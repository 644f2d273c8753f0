/** Calls of the server this page came from. Addresses are relative, so that the page also works below a path of a proxy. */

import { askForKey, authorization } from "./key";

/** What the server says is wrong, in its own words. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly requestId: string | null,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

/** No answer at all. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

/** The visitor took it back. */
export class Cancelled extends Error {
  override readonly name = "Cancelled";
}

export interface Answer {
  blob: Blob;
  header(name: string): string | null;
}

interface Options {
  method?: string;
  body?: FormData | string;
  signal?: AbortSignal | undefined;
  /** Called with 0 to 1 while the body is sent. */
  sending?: (fraction: number) => void;
  /** Called with 0 to 1 while the answer arrives. */
  receiving?: (fraction: number) => void;
}

/**
 * One request. A 401 asks for the key and tries again.
 *
 * @throws ApiError, Unreachable, Cancelled
 */
export async function call(path: string, options: Options = {}): Promise<Answer> {
  for (;;) {
    const request = await sent(path, options);
    const answer: Answer = { blob: request.response as Blob, header: (name) => request.getResponseHeader(name) };
    if (request.status >= 200 && request.status < 300) return answer;
    const error = await told(request.status, answer);
    if (error.status !== 401 || !(await askForKey())) throw error;
  }
}

export async function json<T>(path: string, options: Options = {}): Promise<T> {
  const { blob } = await call(path, options);
  return JSON.parse(await blob.text()) as T;
}

/** XMLHttpRequest, since fetch tells nothing of a body on its way. */
function sent(path: string, options: Options): Promise<XMLHttpRequest> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = (): void => request.abort();
    request.open(options.method ?? (options.body === undefined ? "GET" : "POST"), path);
    request.responseType = "blob";
    const key = authorization();
    if (key) request.setRequestHeader("Authorization", key);
    if (typeof options.body === "string") request.setRequestHeader("Content-Type", "application/json");
    const report = (tell: (fraction: number) => void) => (event: ProgressEvent) => {
      if (event.lengthComputable && event.total > 0) tell(event.loaded / event.total);
    };
    if (options.sending) request.upload.onprogress = report(options.sending);
    if (options.receiving) request.onprogress = report(options.receiving);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Unreachable());
    request.ontimeout = () => reject(new Unreachable());
    request.onabort = () => reject(new Cancelled());
    request.onloadend = () => options.signal?.removeEventListener("abort", stop);
    if (options.signal?.aborted) {
      reject(new Cancelled());
      return;
    }
    options.signal?.addEventListener("abort", stop);
    request.send(options.body ?? null);
  });
}

async function told(status: number, answer: Answer): Promise<ApiError> {
  const wait = Number(answer.header("Retry-After"));
  const retryAfter = Number.isFinite(wait) && wait > 0 ? wait : null;
  const requestId = answer.header("X-Request-Id");
  try {
    const { error } = JSON.parse(await answer.blob.text()) as { error: { code: string; message: string; request_id?: string } };
    return new ApiError(status, error.code, error.message, error.request_id ?? requestId, retryAfter);
  } catch {
    return new ApiError(status, "error", `HTTP ${status}`, requestId, retryAfter); // a proxy's words, not ours
  }
}
