// An invitation carries its token behind #, which browsers never send: not to this server's log, nor to another site.
function enter() {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("token").value = token;
  document.getElementById("login").requestSubmit();
}
addEventListener("hashchange", enter); // the link opened where this page is already on show
enter();
