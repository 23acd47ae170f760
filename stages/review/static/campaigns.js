// The list of campaigns has one thing to do: log out.
document.getElementById("leave")?.addEventListener("click", async (event) => {
  await fetch("/logout", { method: "POST", headers: { "X-CSRF-Token": event.currentTarget.dataset.csrf } });
  location.href = "/login";
});
