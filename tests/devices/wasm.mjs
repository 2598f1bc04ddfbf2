// SPDX-License-Identifier: Apache-2.0
// Exit with what the module's golden() returns; it may import nothing.
import { readFileSync } from "node:fs";
import process from "node:process";

const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), {});
process.exit(instance.exports.golden() & 255);
