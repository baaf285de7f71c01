// Makes a blob container in Azurite (clients that only know objects cannot). Usage: create-container.mjs URL NAME
import { createHmac } from "node:crypto";

const [url, name] = process.argv.slice(2);
const account = "devstoreaccount1"; // the emulator's well-known account and key
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const date = new Date().toUTCString();
const toSign = `PUT${"\n".repeat(12)}x-ms-date:${date}\nx-ms-version:2021-08-06\n/${account}/${account}/${name}\nrestype:container`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(toSign, "utf8").digest("base64");
const answer = await fetch(`${url}/${account}/${name}?restype=container`, {
  method: "PUT",
  headers: { "x-ms-date": date, "x-ms-version": "2021-08-06", Authorization: `SharedKey ${account}:${signature}` },
});
if (answer.status !== 201 && answer.status !== 409) {
  console.error(`Azurite answered ${answer.status}: ${await answer.text()}`);
  process.exit(1);
}
console.log(`container ${name}: ${answer.status === 201 ? "made" : "is there"}`);
